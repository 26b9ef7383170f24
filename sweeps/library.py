"""A sweep from Python, by the functions of `lightrail sweep`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, final

import optuna

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration.yaml_file import write_text
from lightrail.project.library.calling import calling
from lightrail.project.library.settings import Settings, Source, allowing, plain_settings, written
from lightrail.sweeps.command import run_sweep
from lightrail.sweeps.report.concluding import best_run, chosen
from lightrail.sweeps.report.tables import trial_rows
from lightrail.sweeps.search.confirming import confirmation_of
from lightrail.sweeps.search.definition import argument_of, load
from lightrail.sweeps.search.outcomes import outcomes_of
from lightrail.sweeps.search.study import RUN, open_storage

if TYPE_CHECKING:
    import pandas as pd


@final
@dataclass(frozen=True)
class FinishedSweep:
    """A study that holds all of its trials."""

    run_id: str
    """MLflow run of the study, the parent of its trials."""
    last_line: str
    """The line that the command prints last."""
    best: Mapping[str, Any] | None
    """Settings of the best trial by dotted name; of a Pareto front of the first one. None: no trial was completed."""
    best_run_id: str | None
    """MLflow run of the best trial."""
    trials: "pd.DataFrame" = field(repr=False)
    """A row for each trial: state, metrics, settings, runs."""


def sweep(definition: Source, settings: Settings | None = None, *, allow_modules: Sequence[str] = ()) -> FinishedSweep:
    """Train configurations from a search space until the study holds its trials, as `lightrail sweep` does.

    The same call resumes a sweep that was stopped. Trials run in processes of their own.

    Args:
        definition: YAML file, name of a shipped sweep, several of them, or a mapping with all settings and `study`.
        settings: values that replace those of the definition, such as `{"n_trials": 20, "resources.workers": 2}`.
        allow_modules: modules whose classes may be named; they are imported in each trial.

    Raises: ConfigError, DataError before the first trial; KeyboardInterrupt when it was stopped.
    """
    values, modules = plain_settings(settings)
    with calling(), TemporaryDirectory() if isinstance(definition, Mapping) else nullcontext("") as folder:
        arguments = [*_written(definition, folder), *allowing([*allow_modules, *modules])]
        arguments += [argument_of(name, value) for name, value in values.items()]
        verbosity = optuna.logging.get_verbosity()
        try:
            return _finished(run_sweep(arguments), arguments)
        finally:
            optuna.logging.set_verbosity(verbosity)


def _written(definition: Source, folder: str) -> list[str]:
    """Return the arguments that name a definition, which is written to the folder if it is a mapping."""
    if not isinstance(definition, Mapping):
        return written(definition)
    values = plain_settings(definition)[0]
    if not isinstance(values.get("study"), str):
        raise ConfigError("study: a sweep given as a mapping has no file to be named after. Give a name of the study.")
    file = Path(folder, "sweep.yaml")
    file.write_text(write_text(values), encoding="utf-8")
    return [f"--config={file}"]


def _finished(last_line: str, arguments: Sequence[str]) -> FinishedSweep:
    import pandas as pd

    found = load(arguments)
    study = optuna.load_study(study_name=found.name, storage=open_storage(found))
    outcomes = outcomes_of(study, found)
    head, *rows = trial_rows(outcomes, found)
    best = next(iter(chosen(outcomes, found, confirmation_of(study, found))), None)
    return FinishedSweep(
        run_id=study.user_attrs[RUN],
        last_line=last_line,
        best=None if best is None else dict(best.settings),
        best_run_id=None if best is None else best_run(best, found),
        trials=pd.DataFrame(rows, columns=head),
    )
