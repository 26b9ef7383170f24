"""From a network's outputs to predictions, as tasks of one type share it; each keeps a head as `self.head`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.metrics.scores import Columns, StoredScore


class Head(nn.Module, ABC):
    """Loss, predictions, scores and figures of a task, under the names of `TaskModule`.

    A task whose `self.head` is one writes `forward` alone, which returns what the head takes as `outputs`.
    """

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the mean loss, and the number of targets it is a mean over."""

    @abstractmethod
    def decode(self, outputs: Any, batch: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Return the columns of the predictions but those of the input; without targets those that need none."""

    @abstractmethod
    def scores(self) -> Mapping[str, StoredScore]:
        """Return every metric by its name, computed from the columns."""

    @abstractmethod
    def figures(self, columns: Columns) -> Iterable[Figure]:
        """Yield the figures of a test."""

    def calibration_rows(self, outputs: Any, batch: Mapping[str, Any]) -> Sequence[Any]:
        """Return a value for each example for `calibrate` to be fitted on; none without calibration."""
        return ()

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit the calibration on the rows of the validation split and return metrics to log."""
        return {}

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the stored types of columns whose values do not show them."""
        return {}

    def column_labels(self) -> Mapping[str, Sequence[str]]:
        """Return a label per entry of each list column."""
        return {}


def own_head(task: nn.Module) -> Head | None:
    """Return the head of a task, its attribute `head`; None without one."""
    head = getattr(task, "head", None)
    return head if isinstance(head, Head) else None


def head_for(task: nn.Module, method: str) -> Head:
    """Return the head that does what a task does not. Raises: NotImplementedError when there is none."""
    if not (head := own_head(task)):
        raise NotImplementedError(f"{type(task).__name__} has no Head as `self.head`: write `{method}`.")
    return head
