"""The configuration of a trial as a file that `lightrail fit --config` takes."""

from collections.abc import Sequence
from pathlib import Path

from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, configuration_of


def write_best(best: Sequence[Outcome], sweep: Sweep, folder: Path) -> list[str]:
    """Write `best.yaml`; of several metrics `best/NN.yaml` for each trial of the Pareto front. Returns: their names."""
    is_front = len(sweep.config.metrics) > 1
    names = [f"best/{own.number:02}.yaml" if is_front else "best.yaml" for own in best]
    for own, name in zip(best, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = ", ".join(
            f"{metric}={value:.4f}" for metric, value in zip(sweep.config.metrics, own.values, strict=True)
        )
        head = f"# Trial {own.number} of the sweep {sweep.name}: {values}\n"
        (folder / name).write_text(head + configuration_of(own, sweep).dump(), encoding="utf-8")
    return names
