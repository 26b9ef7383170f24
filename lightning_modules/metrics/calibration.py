"""Temperature and thresholds, fitted on the validation split.

Shapes: N examples, L labels.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

LOWEST, HIGHEST = 0.1, 10.0
LEAST_POSITIVES = 5
"""Examples that a label needs for a threshold of its own: with fewer, chance decides which value looks best."""


def best_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature at which a loss is smallest, between `LOWEST` and `HIGHEST`; it divides the scores.

    1, which changes nothing, is returned unless another has a lower loss: the search finds one of several minima.

    >>> round(best_temperature(lambda temperature: (temperature - 2) ** 2), 3)
    2.0
    >>> best_temperature(lambda temperature: 0.0)
    1.0
    """
    bounds = (math.log(LOWEST), math.log(HIGHEST))
    search = minimize_scalar(lambda exponent: loss(math.exp(exponent)), bounds=bounds, options={"xatol": 1e-4})
    found = math.exp(float(search.x))
    return found if loss(found) < loss(1.0) else 1.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T for which the loss of logits / T is least.

    Where every prediction is right that would be T = 0: certainty, for which there is no evidence. 1 is returned then.

    Args:
        logits: [N, L].
        labels: [N], or [N, L] where an example may have several (0 or 1).

    Source: C. Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2.
    """
    exact = logits.double()
    if not torch.isfinite(exact).all() or _are_all_right(exact, labels):
        return 1.0
    return best_temperature(lambda temperature: float(_loss(exact / temperature, labels)))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.double())


def _are_all_right(logits: Tensor, labels: Tensor) -> bool:
    if labels.ndim == 1:
        return bool((logits.argmax(-1) == labels).all())
    return bool(((logits > 0) == (labels > 0)).all())


def fit_thresholds(probabilities: NDArray[np.float64], is_target: NDArray[np.bool_]) -> list[float]:
    """Return for each label the threshold with the highest F1, at and above which it is predicted; [N, L] both.

    Between two probabilities all thresholds do the same: the middle is taken, or 0.5 where that lies between them. Of
    equally good ones the nearest to 0.5 is taken. A label with fewer than `LEAST_POSITIVES` examples keeps 0.5.
    """
    return [_fit_threshold(own, targets) for own, targets in zip(probabilities.T, is_target.T, strict=True)]


def _fit_threshold(probabilities: NDArray[np.float64], is_target: NDArray[np.bool_]) -> float:
    num_targets = int(is_target.sum())
    if num_targets < LEAST_POSITIVES or np.isnan(probabilities).any():
        return 0.5
    values, place = np.unique(probabilities, return_inverse=True)  # ascending
    hits = np.cumsum(np.bincount(place, weights=is_target)[::-1])[::-1]  # targets at or above each value
    predicted = np.cumsum(np.bincount(place)[::-1])[::-1]
    f1 = 2 * hits / (predicted + num_targets)
    below = np.concatenate([[0.0], values[:-1]])
    middles = np.where((below < 0.5) & (values >= 0.5), 0.5, (below + values) / 2)
    best = middles[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
