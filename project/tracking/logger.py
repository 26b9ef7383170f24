"""Lightning's logger for a run that exists already; the params and data sets of a run as MLflow shows them."""

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

from lightrail.project.tracking.journal import Journal
from lightrail.project.tracking.sender import MetricSender, Uploads, milliseconds_now
from lightrail.project.tracking.store import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from lightrail.datamodules.base import SplitSummary


MLFLOW_NAME = re.compile(r"[/\w.\- :]{1,250}")
"""What MLflow accepts for a metric and a tag. One other would have the store refuse the whole batch it is sent in."""

FINALIZE_SECONDS = 10.0


def is_process_zero() -> bool:
    """Return whether this process is the one of a distributed run that writes; Lightning knows from the launch on."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


class MlflowLogger(Logger):
    """Passes metrics on to the run `run_id`; neither makes runs nor ends them, and only process zero writes.

    A call costs microseconds: it appends to the run's journal, which a thread of its own sends (`sender.py`). The
    object may be pickled or forked into other processes: each gets its own thread, and the journal is common to them.
    """

    def __init__(
        self, uri: str, run_id: str, folders: RunFolders, last_steps: Mapping[str, int], start_time: int = 0
    ) -> None:
        super().__init__()
        self.run_id = run_id
        self.uri = uri
        self.start_time = start_time
        """When the run began for the first time, in milliseconds since 1970."""
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
        """Record one point per metric. `step` is the optimizer step; left out it is 0."""
        for key in metrics:
            _check_name("metric", key)
        self.sender.record(metrics, step or 0)

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, later and in order, as metrics are."""
        for key in tags:
            _check_name("tag", key)
        self.journal.append_tags(dict(tags), milliseconds_now())
        self.sender.wake()

    @rank_zero_only
    def upload_soon(self, relative_path: str) -> None:
        """Have a file of the run's folder uploaded in the background, unless that folder is the artifact store."""
        self.uploads.request(relative_path)
        self.sender.wake()

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run was started with its whole configuration, which a second source could only contradict."""

    @override
    def save(self) -> None:
        """Do nothing: the Trainer calls this after each log, and the journal is on disk already."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what waits, if the store answers. A fit or a test has ended, the run has not: its status stays."""
        self.sender.flush(FINALIZE_SECONDS)

    @property
    def sender(self) -> MetricSender:
        """This process's sender, started when first asked for."""
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
        raise ValueError(f"{kind} {name!r}: a name is up to 250 letters, digits, spaces and any of / _ . - :")


MOST_ATTEMPTS = 10
MAX_DIGEST_CHARACTERS = 36
"""MLflow's limit. 36 hexadecimal digits of a content digest are 144 bits: two data sets do not share them."""


MAX_VALUE_CHARACTERS = 6000
"""MLflow's limit; it cuts what is longer without a word."""
PARAM_NAME = re.compile(r"[/\w.\- :]{1,200}")


def log_inputs(client: "MlflowClient", run_id: str, splits: "Sequence[SplitSummary]") -> None:
    """Record the splits of a run.

    MLflow looks whether it knows a data set and then adds it: where runs on the same data begin at one moment, as
    trials of a sweep do, all but one are refused. Nothing of a refused record is kept; the next attempt finds it known.
    """
    from mlflow.exceptions import MlflowException

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
    """Return one MLflow data set per split, named by it, with the context tag train, validation or test."""
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

    Lists of sections (callbacks) are numbered, other lists are JSON. A section with a key that MLflow takes for no name
    is JSON as a whole. A value over the limit is split: `key.part1`, `key.part2`, ..., to be put together in order.

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
