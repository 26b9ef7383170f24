"""Scores of entities over an evaluation, from counts. Shapes: L types."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightrail.lightning_modules.metrics.entity_scores import (
    ERRORS,
    MICRO,
    Entity,
    counts_by_type,
    error_counts,
    error_metric,
    f1,
    macro_f1,
    metric_names,
)


class EntityMetric(Metric):
    """Strict precision, recall and F1 of entities, over all types together, and F1 as the mean over types.

    Args:
        types: names of the types.
        is_detailed: also the F1 of each type, and how many entities have each kind of error.
    """

    full_state_update = False
    counts: Tensor
    """Right, predicted and expected entities of each type, [3, L]."""
    errors: Tensor

    def __init__(self, types: Sequence[str], *, is_detailed: bool) -> None:
        super().__init__()
        self.types, self.is_detailed = list(types), is_detailed
        self.add_state("counts", torch.zeros(3, len(types), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("errors", torch.zeros(len(ERRORS), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Collection[Entity]], targets: Sequence[Collection[Entity]]) -> None:
        """Count sentences; a collection of entities for each."""
        counts = np.zeros((3, len(self.types)), np.int64)
        errors = np.zeros(len(ERRORS), np.int64)
        for predicted, expected in zip(predictions, targets, strict=True):
            if predicted or expected:
                counts += counts_by_type(predicted, expected, self.types)
                errors += error_counts(predicted, expected) if self.is_detailed else 0
        self.counts += torch.from_numpy(counts).to(self.counts.device)
        self.errors += torch.from_numpy(errors).to(self.errors.device)

    def compute(self) -> dict[str, Tensor]:
        counts = self.counts.cpu().numpy().astype(np.float64)
        values = {name: share(counts.sum(-1, keepdims=True))[0] for name, share in MICRO.items()}
        values["f1_macro"] = macro_f1(counts)
        if self.is_detailed:
            values |= dict(zip(metric_names(self.types).values(), f1(counts), strict=True))
            errors = zip(ERRORS, self.errors.tolist(), strict=True)
            values |= {error_metric(error): number for error, number in errors}
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in values.items()}
