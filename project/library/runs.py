"""Runs from Python: train, resume, check, list and compare them, by the functions of the commands."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import pyarrow as pa

from lightrail.datamodules.checking import DataReport
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.commands.compare import compared, formatted
from lightrail.project.commands.fit import checked, checked_plain, train
from lightrail.project.commands.list import plain_run, recorded_runs
from lightrail.project.commands.resume import resume as resume_run
from lightrail.project.comparing.comparison import Comparison, as_plain
from lightrail.project.comparing.metrics_alone import MetricsAlone
from lightrail.project.findings.finding import Finding
from lightrail.project.library.calling import calling, refusing
from lightrail.project.library.settings import Settings, Source, configuration_of, plain_settings
from lightrail.project.plain_modules.rehearsing import PlainRehearsal
from lightrail.project.running.dry_run import Rehearsal, rehearse
from lightrail.project.running.fitting import FinishedRun, last_line
from lightrail.project.running.seeds import FinishedSeeds
from lightrail.project.running.tuning.finders import Found, check_finders
from lightrail.project.running.tuning.finders import find as run_finders
from lightrail.project.tracking.lookup import read_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

if TYPE_CHECKING:
    import pandas as pd

RESULTS = ("test/", "best/")
"""Prefixes of the metrics in the table of runs: those of a test, and those of a sweep's best trial."""


@final
@dataclass(frozen=True)
class Run:
    """A finished run, or the parent of runs with several seeds."""

    run_id: str
    directory: Path
    """Folder of its artifacts on this machine: `config.yaml`, checkpoints, predictions, figures."""
    metrics: Mapping[str, float]
    """`test/NAME` to value; of several seeds the mean, and `test/NAME_sd` the sample standard deviation."""
    store: str
    """Address of the MLflow store that the run is recorded in."""
    predictions: pa.Table | None = field(default=None, repr=False)
    """One row for each test example; None of several seeds."""
    findings: Sequence[Finding] = field(default=(), repr=False)
    """What may have gone wrong, the most severe first: `code`, `severity`, `message`, `docs`."""

    @property
    def status(self) -> str:
        """Status in the store at this moment, such as FINISHED. Raises: ConfigError when it cannot be read."""
        with refusing():
            found = read_run(open_store(self.store, create=False), self.run_id)
        if found is None:
            raise ConfigError(f"run {self.run_id} is not in its store any more. It was deleted.")
        return str(found.info.status)

    @property
    def last_line(self) -> str:
        """The line that a command prints last: the run and its metrics."""
        return last_line(self.run_id, self.metrics)


Named: TypeAlias = Run | str | os.PathLike[str]
"""A run: as it was returned, or any name that the commands take: an id, `runs:/ID`, a folder, a checkpoint."""


@final
@dataclass(frozen=True)
class Check:
    """What `lightrail check` reports. As a text it is what the command prints."""

    data: DataReport | None
    """None for a plain LightningModule, of whose data nothing is known."""
    chosen: Sequence[str]
    """Settings chosen by the data, in words."""
    advice: Sequence[str]
    measured: Rehearsal | PlainRehearsal
    """Time and memory of a few training steps."""
    found: Mapping[str, Found]
    """By name of a finder: `lr` (`rates`, `losses`, `suggestion`), `batch_size` (`most`, `throughput`, `settings`)."""
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text


@final
@dataclass(frozen=True)
class RunComparison:
    """Runs compared with the first one. As a text it is Markdown; a notebook shows it as a page."""

    comparison: Comparison | MetricsAlone = field(repr=False)

    @property
    def values(self) -> dict[str, Any]:
        """The plain values of `lightrail compare --format json`: entries, differences, examples, settings, notes."""
        return self.comparison.plain() if isinstance(self.comparison, MetricsAlone) else as_plain(self.comparison)

    @property
    def table(self) -> "pd.DataFrame":
        """Metrics by run: columns `run_id`, `name`, and each metric with the ends of its interval, where it has one."""
        import pandas as pd

        rows = []
        for entry in self.values["entries"]:
            row = {"run_id": entry["run_id"], "name": entry["name"]}
            for metric, own in entry["metrics"].items():
                has_interval = isinstance(own, dict)
                row[metric] = own["value"] if has_interval else own
                row |= {f"{metric}_{end}": own[end] for end in ("low", "high") if has_interval}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def html(self) -> str:
        """The page of `lightrail compare --format html`."""
        return formatted(self.comparison, "html")

    def __str__(self) -> str:
        return formatted(self.comparison, "markdown")

    def _repr_markdown_(self) -> str:
        return str(self)


def fit(
    config: Source, settings: Settings | None = None, *, seeds: int | None = None, allow_modules: Sequence[str] = ()
) -> Run:
    """Train, test the best checkpoint and close the run, as `lightrail fit` does.

    Args:
        config: name of a shipped experiment, YAML file, several of them, or a mapping with all settings.
        settings: Python values by dotted or short name, such as `{"data.path": "reviews.csv", "epochs": 3}`.
        seeds: train with this many consecutive seeds, under one parent run, which is returned.
        allow_modules: modules whose classes the configuration may name; classes in `settings` need no mention.

    Raises:
        ConfigError, DataError: something cannot be used; no run was started.
        Diverged: the loss is not finite.
        KeyboardInterrupt: the run is KILLED, and can be resumed.
    """
    if seeds is not None and (isinstance(seeds, bool) or not isinstance(seeds, int)):
        raise ConfigError(f"seeds is {shown(seeds)}. Give the number of seeds, such as 5.")
    with calling():
        configuration = configuration_of(config, settings, allow_modules)
        return _run(train(configuration, seeds), configuration.tracking())


def resume(run: Named, settings: Settings | None = None, *, force: bool = False) -> Run:
    """Resume an interrupted run, in the same MLflow run, as `lightrail resume` does.

    Args:
        settings: they apply from the resumed step on; `tracking.uri` is the store of the run.
        force: resume although another machine may still be running it.

    Raises: ConfigError, DataError; the run is then unchanged.
    """
    with calling():
        uri = (settings or {}).get("tracking.uri", store_of([run]))
        values = {**plain_settings(settings)[0], **({} if uri is None else {"tracking.uri": uri})}
        return _run(resume_run(name_of(run), [], values, force=force), TrackingConfig(uri=uri))


def check(
    config: Source,
    settings: Settings | None = None,
    *,
    find: Sequence[Literal["lr", "batch_size"]] = (),
    allow_modules: Sequence[str] = (),
) -> Check:
    """Check data and configuration, and measure a few steps, as `lightrail check` does. Nothing is recorded.

    Args: as for `fit`, and
        find: `lr` for a learning-rate range test, `batch_size` for the largest useful batch.

    Raises: ConfigError, DataError.
    """
    with calling():
        configuration = configuration_of(config, settings, allow_modules)
        check_finders(find, configuration)
        if not configuration.is_of_task:
            steps = checked_plain(configuration)
            return Check(None, (), (), steps, {}, steps.render())
        own = checked(configuration)
        measured, report, advice = rehearse(own.experiment), own.report, own.advice
        chosen, lines = own.chosen, [own.render(), measured.render()]
        del own  # the memory that its model takes is not to count
        found = run_finders(find, configuration)
    return Check(
        report, chosen, advice, measured, found, "\n".join([*lines, *(one.render() for one in found.values())])
    )


def compare(
    *runs: Named,
    metrics: Sequence[str] = (),
    resamples: int = 2_000,
    num_examples: int = 10,
    allow_modules: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> RunComparison:
    """Compare runs with the first one, as `lightrail compare` does.

    Args:
        metrics: all of these are tested; none: all that the runs share, of which the main one is tested.
        resamples: bootstrap resamples, at least 100.
        num_examples: number of examples on which the runs differ most.
        tracking_uri: MLflow store; None: that of the first run object, else MLFLOW_TRACKING_URI, else mlflow.db here.

    Raises: ConfigError for runs that cannot be compared.
    """
    with refusing():
        found = compared(
            [name_of(run) for run in runs],
            TrackingConfig(uri=tracking_uri or store_of(runs)),
            metrics,
            num_resamples=resamples,
            num_examples=num_examples,
            allow_modules=allow_modules,
        )
    return RunComparison(found)


def runs(number: int = 20, *, settings: Sequence[str] = (), tracking_uri: str | None = None) -> "pd.DataFrame":
    """Return the last runs of the store as a table, newest first: one row each, with its test metrics.

    Args:
        number: most runs; those of a sweep or of several seeds count too, and name their `parent`.
        settings: dotted names of settings to add as columns, as texts. Times are UTC.
        tracking_uri: MLflow store; None: MLFLOW_TRACKING_URI, else mlflow.db in this folder.

    Raises: ConfigError when the store cannot be read.
    """
    import pandas as pd

    if number < 1:
        raise ConfigError(f"number is {number}. Give a number of runs above 0.")
    with refusing():
        found = recorded_runs(TrackingConfig(uri=tracking_uri), number)
    rows = []
    for run in found:
        row = plain_run(run)
        metrics, started = row.pop("metrics"), pd.to_datetime(run.info.start_time, unit="ms", errors="coerce")
        row |= {"started": started, **{name: run.data.params.get(_param(name, run.data.params)) for name in settings}}
        rows.append(row | metrics)
    return pd.DataFrame(rows)


def _param(name: str, params: Mapping[str, str]) -> str:
    """Return the stored name of a setting, which may be written without `init_args`."""
    wanted = name.split(".")
    return next((own for own in params if [key for key in own.split(".") if key != "init_args"] == wanted), name)


def name_of(run: Named) -> str:
    """Return the name by which the commands find a run."""
    return run.run_id if isinstance(run, Run) else os.fspath(run)


def store_of(runs: Sequence[Named]) -> str | None:
    """Return the store of the first run that knows it; None without one."""
    return next((run.store for run in runs if isinstance(run, Run)), None)


def _run(finished: FinishedRun | FinishedSeeds, tracking: TrackingConfig) -> Run:
    predictions = finished.predictions if isinstance(finished, FinishedRun) else None
    store = store_uri(tracking)
    return Run(finished.run_id, finished.directory, dict(finished.metrics), store, predictions, finished.findings)
