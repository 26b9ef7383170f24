"""The metric of the task, which lightrail does not have."""

from dataclasses import dataclass

import numpy as np

from lightrail.lightning_modules.metrics.scores import Columns, Score, Values


@dataclass(frozen=True, kw_only=True)
class WeightedAccuracy(Score):
    """How much of the weight is on examples whose answer is right: sum of weights of right ones / sum of weights."""

    def statistics(self, columns: Columns) -> Values:
        weights = columns["weight"].astype(np.float64)
        is_right = columns["prediction"] == columns["target"]
        return np.stack([np.where(is_right, weights, 0), weights], axis=1)

    def value(self, sums: Values) -> Values:
        with np.errstate(invalid="ignore"):
            return np.asarray(sums[..., 0] / sums[..., 1], np.float64)
