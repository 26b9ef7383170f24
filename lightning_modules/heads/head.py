"""From a network's outputs to answers: what tasks of a kind share, each keeping one as `self.head`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.metrics.scores import Columns, StoredScore


class Head(nn.Module, ABC):
    """Does for a task what `TaskModule` describes under the same names.

    A task whose `self.head` is one writes `forward` alone, which gives what the head takes as `outputs`.
    """

    @abstractmethod
    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Give the mean loss, and how many targets it is a mean over."""

    @abstractmethod
    def decode(self, outputs: Any, batch: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Give the columns of the predictions but those of the input; without targets those that need none."""

    @abstractmethod
    def scores(self) -> Mapping[str, StoredScore]:
        """Every metric, as computed from the columns."""

    @abstractmethod
    def figures(self, columns: Columns) -> Iterable[Figure]:
        """What there is to see of a test."""

    def calibration_rows(self, outputs: Any, batch: Mapping[str, Any]) -> Sequence[Any]:
        return ()

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        return {}

    def column_types(self) -> Mapping[str, pa.DataType]:
        return {}

    def column_labels(self) -> Mapping[str, Sequence[str]]:
        return {}
