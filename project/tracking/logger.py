"""Lightning's logger for a run that exists already."""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
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
