"""`lightrail check`: reads the data and rehearses a few steps; trains nothing and leaves nothing behind."""

from lightrail.project.running.build import build
from lightrail.project.configuration import parse
from lightrail.project.running.dry_run import rehearse


def check(arguments: list[str]) -> int:
    experiment = build(parse(arguments), "fit")
    print(experiment.data.report().render())
    print(rehearse(experiment).render())
    return 0
