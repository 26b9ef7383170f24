"""The predictions of a plain LightningModule as a table: one row per example, in the order of the examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightrail.project.basics.errors import ConfigError
from lightrail.project.models.predictions import PREDICTION, PredictionTable


class PlainPredictions(PredictionTable):
    """Collects what `predict_step` returns: a value per example, or several columns as a mapping or named tuple."""

    def on_test_batch_end(self, *_: Any) -> None:
        """Collect nothing: what a test step returns is no prediction."""

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        columns = columns_of(outputs)
        number = len(next(iter(columns.values()), ()))
        ids = list(trainer.predict_loop.current_batch_indices)
        if len(ids) != number:
            ids = list(range(self.num_rows, self.num_rows + number))
        if len(ids) and trainer.world_size > 1 and not trainer.predict_loop.current_batch_indices:
            raise ConfigError(
                "the order of the predictions of several processes is not known. Set --trainer.devices 1."
            )
        self._add({"id": ids, **columns})


def columns_of(outputs: Any) -> dict[str, Sequence[Any]]:
    """Return the columns of a batch of predictions, plain values each. Raises: ConfigError when there are none."""
    if isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        outputs = outputs._asdict()
    given = outputs if isinstance(outputs, Mapping) else {PREDICTION: outputs}
    columns = {str(name): _values(own) for name, own in given.items() if name != "id"}
    lengths = {name: len(own) for name, own in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"predict_step returned columns of different lengths: {lengths}. Return a value per example.")
    return columns


def _values(value: Any) -> Sequence[Any]:
    if isinstance(value, Tensor):
        return value.detach().cpu().float().tolist() if value.is_floating_point() else value.detach().cpu().tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item.tolist() if hasattr(item, "tolist") else item for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()  # type: ignore[no-any-return]
    raise ConfigError(
        f"predict_step returned {type(value).__name__}, no tensor, list or mapping of these with a value per example."
    )
