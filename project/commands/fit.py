"""`lightrail fit`: trains, tests the best checkpoint and closes the run."""

from project.configuration import parse
from project.fitting import fit


def run(arguments: list[str]) -> int:
    finished = fit(parse(arguments))
    if finished.predictions is not None:
        print(finished.last_line)
    return 0
