"""A logger beside MLflow whose failures never stop a training."""

import logging
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, final

from lightning.pytorch.loggers import Logger
from torch import Tensor
from typing_extensions import override

from lightrail.project.basics.errors import first_line
from lightrail.project.tracking.logger import is_process_zero

log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""Maximum wait, at the end of a run, for a logger that does not respond."""


@final
class GuardedLogger(Logger):
    """Passes calls to a logger, on process zero alone; after one that raises an exception it passes none.

    The object may be pickled or forked into other processes, which build a logger of their own.

    Args:
        name: shown in the warning.
        build: builds the logger at its first use.
        settings: the run's configuration, flat; in place of the arguments of the task that Lightning passes.
    """

    def __init__(self, name: str, build: Callable[[], Logger], settings: Mapping[str, str]) -> None:
        super().__init__()
        self._name, self._build, self._settings = name, build, dict(settings)
        self._inner: Logger | None = None
        self.has_failed = False

    def use(self, action: Callable[[Logger], Any]) -> Any:
        """Call an action with the logger, and return its result; None where the logger is left out."""
        if self.has_failed or not is_process_zero():
            return None
        try:
            if self._inner is None:
                self._inner = self._build()
            return action(self._inner)
        except Exception as error:
            self.has_failed = True
            reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
            log.warning("the logger %s failed and is left out from now on: %s", self._name, reason)
            return None

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def version(self) -> int | str | None:
        version: int | str | None = self.use(lambda own: own.version)
        return version

    @property
    @override
    def save_dir(self) -> str | None:
        folder: str | None = self.use(lambda own: own.save_dir)
        return folder

    @property
    def experiment(self) -> Any:
        """What the logger writes to, such as TensorBoard's SummaryWriter; None where the logger is left out."""
        return self.use(lambda own: getattr(own, "experiment", None))

    @override
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items()}

        def write(own: Logger) -> None:
            own.log_metrics(values, step)
            own.save()  # a killed run is resumed with all points up to its checkpoint

        self.use(write)

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.use(lambda own: own.log_hyperparams(dict(self._settings)))

    @override
    def finalize(self, status: str) -> None:
        if self._inner is not None:
            self.use(lambda own: own.finalize(status))

    def close(self) -> None:
        """End what the logger writes to, such as the run of wandb; without an answer it is left to the process."""
        ending = threading.Thread(target=self.use, args=(_finish,), daemon=True)
        if self._inner is not None:
            ending.start()
            ending.join(CLOSE_SECONDS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inner": None}


def _finish(own: Logger) -> None:
    experiment = getattr(own, "experiment", None)
    for name in ("finish", "close"):
        if callable(end := getattr(experiment, name, None)):
            end()
            return
