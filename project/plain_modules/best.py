"""The best checkpoint of a plain LightningModule, by a metric that it logs itself."""

import logging
import math
import re
from collections.abc import Collection
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightrail.project.basics.errors import shown
from lightrail.project.tracking.logger import is_process_zero
from lightrail.project.training.checkpoints import BEST

log = logging.getLogger(__name__)

SMALLER_IS_BETTER = {"loss", "error", "err", "mae", "mse", "rmse", "nll", "perplexity", "ppl", "wer", "cer"}
LARGER_IS_BETTER = {"accuracy", "acc", "f1", "auroc", "auc", "precision", "recall", "iou", "dice", "bleu"}
STAGES = {"val", "valid", "validation"}
NAME_ONE = (
    "Name one: --trainer.callbacks=ModelCheckpoint --trainer.callbacks.monitor=NAME --trainer.callbacks.mode=min|max"
)


def words_of(name: str) -> set[str]:
    """Return the words of a metric's name in lower case.

    >>> sorted(words_of("val/Loss_epoch"))
    ['epoch', 'loss', 'val']
    """
    return set(re.findall(r"[a-z]+\d*", name.lower()))


def direction_of(name: str) -> Literal["min", "max"] | None:
    """Return which values of a metric are better, by its name; None when the name does not say."""
    words = words_of(name)
    is_smaller, is_larger = bool(words & SMALLER_IS_BETTER), bool(words & LARGER_IS_BETTER)
    return None if is_smaller == is_larger else "min" if is_smaller else "max"


def choose(names: Collection[str]) -> tuple[str, Literal["min", "max"]] | None:
    """Choose the metric of the best checkpoint among those of a validation: its loss, else the only one."""
    losses = [name for name in names if words_of(name) in ({own, "loss"} for own in STAGES)]
    (name,) = losses[:1] or (list(names) if len(names) == 1 else [""])
    mode = direction_of(name)
    return (name, mode) if mode else None


class BestByLogged(ModelCheckpoint):
    """Keeps `best.ckpt` by the loss that the first validation logs, or by its only metric.

    Args:
        is_averaged: weights are averaged, which only full checkpoints contain.
    """

    def __init__(self, *, is_averaged: bool) -> None:
        name = BEST.removesuffix(".ckpt")
        super().__init__(
            filename=name,
            save_weights_only=not is_averaged,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self._before: set[str] = set()
        self._is_decided = False

    @property
    def state_key(self) -> str:
        """A key that does not depend on the metric, which is chosen later."""
        return type(self).__qualname__

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._before = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not (self._is_decided or trainer.sanity_checking):
            self._decide([name for name in trainer.callback_metrics if name not in self._before])
        if self.monitor:
            super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["monitor"]:
            self._watch(state_dict["monitor"], state_dict["mode"])
        super().load_state_dict(state_dict)

    def _decide(self, names: list[str]) -> None:
        self._is_decided = True
        chosen = choose(names)
        if chosen is not None:
            self._watch(*chosen)
            if is_process_zero():
                words = "smallest" if self.mode == "min" else "largest"
                log.info("the best checkpoint is the one with the %s %s", words, self.monitor)
        elif is_process_zero():
            logged = f"it logs {', '.join(map(shown, names))}" if names else "it logs no metric"
            log.warning("no best checkpoint is kept: by the validation, %s. %s", logged, NAME_ONE)

    def _watch(self, monitor: str, mode: Literal["min", "max"]) -> None:
        self._is_decided, self.monitor, self.mode = True, monitor, mode
        self.kth_value = torch.tensor(math.inf if mode == "min" else -math.inf)
