"""The finders of `lightrail check --find`, by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.configuration import Configuration
from lightrail.project.running.build import build
from lightrail.project.running.parts import Experiment
from lightrail.project.running.tuning.batch_size import BatchSize, find_batch_size
from lightrail.project.running.tuning.learning_rate import RateTest, find_rate

Found: TypeAlias = RateTest | BatchSize
FINDERS: Mapping[str, Callable[[Experiment], Found]] = {"lr": find_rate, "batch_size": find_batch_size}


def check_finders(names: Sequence[str], configuration: Configuration) -> None:
    """Refuse names of no finder, and finders of a module that is no task. Raises: ConfigError."""
    for name in (own for own in names if own not in FINDERS):
        raise ConfigError(f"--find {shown(name)}: give {' or '.join(FINDERS)}.{did_you_mean(name, FINDERS)}")
    if names and not configuration.is_of_task:
        raise ConfigError(
            "--find is for tasks of lightrail, whose loss and batches are known. Search the settings of a plain "
            "LightningModule with `lightrail sweep`."
        )


def find(names: Sequence[str], configuration: Configuration) -> dict[str, Found]:
    """Run finders one after the other, each on parts of its own, which are thrown away. Raises: ConfigError, DataError.

    Nothing is recorded or written.
    """
    return {name: FINDERS[name](build(configuration, "fit")) for name in names}
