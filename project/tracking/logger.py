"""Lightning logger for an existing MLflow run, and the run's params and data sets in MLflow's form."""

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from lightrail.project.tracking.journal import MLFLOW_NAME, Journal
from lightrail.project.tracking.sender import MetricSender, Uploads, milliseconds_now
from lightrail.project.tracking.store import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from lightrail.datamodules.base import SplitSummary


FINALIZE_SECONDS = 10.0


def is_process_zero() -> bool:
    """Return whether this process writes the run's records: rank zero of a distributed run, as set by Lightning."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


class MlflowLogger(Logger):
    """Logs metrics to the run `run_id`; it neither creates nor ends runs, and only process zero writes.

    A call costs microseconds: it appends to the run's journal, which a separate thread sends (`sender.py`). The object
    may be pickled or forked into other processes: each gets its own thread, and all share the journal.
    """

    def __init__(
        self, uri: str, run_id: str, folders: RunFolders, last_steps: Mapping[str, int], start_time: int = 0
    ) -> None:
        super().__init__()
        self.run_id = run_id
        self.uri = uri
        self.start_time = start_time
        """First start of the run, in milliseconds since 1970."""
        self.journal = Journal(folders.journal)
        self.uploads = Uploads(folders)
        self._directory = folders.artifacts
        self._last_steps = dict(last_steps)
        self._sender: MetricSender | None = None

    @property
    @override
    def name(self) -> str:
        return "lightrail"

    @property
    @override
    def version(self) -> str:
        return self.run_id

    @property
    @override
    def save_dir(self) -> str:
        return str(self._directory)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log one point per metric. `step` is the optimizer step, by default 0. Raises: ValueError for a bad name."""
        for key in metrics:
            _check_name("metric", key)
        self.sender.record(metrics, step or 0)

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, asynchronously and in order with the metrics. Raises: ValueError for a bad name."""
        for key in tags:
            _check_name("tag", key)
        self.journal.append_tags(dict(tags), milliseconds_now())
        self.sender.wake()

    @rank_zero_only
    def upload_soon(self, relative_path: str) -> None:
        """Upload a file of the run's folder in the background, unless that folder is the artifact store."""
        self.uploads.request(relative_path)
        self.sender.wake()

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has its whole configuration from its start, which a second source could contradict."""

    @override
    def save(self) -> None:
        """Do nothing: the Trainer calls this after each log call, and the journal is already on disk."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send pending records if the store responds. The run's status stays: only a fit or a test has ended."""
        self.sender.flush(FINALIZE_SECONDS)

    @property
    def sender(self) -> MetricSender:
        """The sender of this process, started on first use."""
        if self._sender is None or self._sender.process != os.getpid():
            last_steps = self._last_steps | self.journal.last_steps()
            self._sender = MetricSender(self._open_client, self.run_id, self.journal, self.uploads, last_steps)
        return self._sender

    def _open_client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sender": None}


def _check_name(kind: str, name: str) -> None:
    if MLFLOW_NAME.fullmatch(name) is None:
        raise ValueError(f"{kind} {name!r}: a name has up to 250 letters, digits, spaces and any of / _ . - :")


MOST_ATTEMPTS = 10
MAX_DIGEST_CHARACTERS = 36
"""MLflow's limit. 36 hexadecimal digits of a content digest are 144 bits: different data sets do not share them."""


MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit; it silently truncates longer values."""
PARAM_NAME = re.compile(r"[/\w.\- :]{1,200}")


def log_inputs(client: "MlflowClient", run_id: str, splits: "Sequence[SplitSummary]") -> None:
    """Record the splits of a run as its MLflow data sets. Raises: MlflowException when the store refuses them."""
    from mlflow.exceptions import MlflowException

    # MLflow checks whether it knows a data set and then adds it: where runs on the same data start simultaneously, as
    # trials of a sweep do, all but one are refused. Nothing of a refused record is kept; the next attempt finds it.

    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            client.log_inputs(run_id, datasets=dataset_inputs(splits))
        except MlflowException as error:
            is_race = any(word in str(error).lower() for word in ("unique", "duplicate"))
            if not is_race or attempt == MOST_ATTEMPTS:
                raise
        else:
            break


def dataset_inputs(splits: "Sequence[SplitSummary]") -> "list[DatasetInput]":
    """Return one MLflow data set per split, with its name, and as context tag train, validation or test."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split in splits:
        dataset = Dataset(
            name=split.name,
            digest=split.digest[:MAX_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": split.source}, ensure_ascii=False),
            profile=json.dumps({"num_rows": split.num_rows}),
        )
        context = InputTag("mlflow.data.context", split.name)
        inputs.append(DatasetInput(dataset, [context]))
    return inputs


def flatten(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return one param per setting, named by its dotted path.

    Lists of sections (callbacks) are numbered, other lists are JSON. A section with a key that is no valid MLflow name
    is JSON as a whole. A value over the limit is split into `key.part1`, `key.part2`, ..., in order.

    >>> flatten({"model": {"width": 64, "layers": [1, 2]}, "callbacks": [{"class_path": "EarlyStopping"}]})
    {'model.width': '64', 'model.layers': '[1, 2]', 'callbacks.0.class_path': 'EarlyStopping'}
    """
    params: dict[str, str] = {}
    for key, value in _leaves("", configuration):
        if len(value) <= MAX_VALUE_CHARACTERS:
            params[key] = value
            continue
        for number, start in enumerate(range(0, len(value), MAX_VALUE_CHARACTERS), start=1):
            params[f"{key}.part{number}"] = value[start : start + MAX_VALUE_CHARACTERS]
    return params


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    prefix = f"{path}." if path else ""
    if isinstance(value, Mapping) and value and all(_is_name(f"{prefix}{key}") for key in value):
        for key, inner in value.items():
            yield from _leaves(f"{prefix}{key}", inner)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(f"{prefix}{number}", item)
    elif isinstance(value, Mapping | list | tuple):
        yield path or "configuration", json.dumps(value, ensure_ascii=False, default=str)
    else:
        yield path, str(value)


def _is_name(path: str) -> bool:
    return PARAM_NAME.fullmatch(path) is not None and "//" not in path and not path.startswith(("/", "."))
