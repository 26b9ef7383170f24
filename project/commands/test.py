"""`lightrail test`: tests a checkpoint, as a run of its own."""

from lightrail.project.running.checkpoint_arguments import parse_with_checkpoint
from lightrail.project.running.fitting import test


def test_checkpoint(arguments: list[str]) -> int:
    finished = test(*parse_with_checkpoint(arguments))
    if finished.predictions is not None:
        print(finished.last_line)
    return 0
