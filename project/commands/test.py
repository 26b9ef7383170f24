"""`lightrail test`: tests a checkpoint, as a run of its own."""

from project.checkpoint_arguments import parse_with_checkpoint
from project.fitting import test


def run(arguments: list[str]) -> int:
    finished = test(*parse_with_checkpoint(arguments))
    if finished.predictions is not None:
        print(finished.last_line)
    return 0
