"""`lightrail check`: reads the data and rehearses a few steps; trains nothing and leaves nothing behind."""

from project.build import build
from project.configuration import parse
from project.rehearsal import rehearse


def run(arguments: list[str]) -> int:
    experiment = build(parse(arguments), "fit")
    print(experiment.data.report().render())
    print(rehearse(experiment).render())
    return 0
