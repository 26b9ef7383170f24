"""Findings from the series of a training: it ended too early, went wrong at once, or over-fitted."""

from collections.abc import Sequence

import numpy as np

from lightrail.project.findings.finding import SIGNIFICANT, Evidence

LEAST_VALIDATIONS = 4
"""With fewer, the last fifth of a training and the one before cannot be told apart."""


def best_is_last(evidence: Evidence) -> str | None:
    """The last validation is the best, and a fifth more of training would give a gain that is more than chance.

    That alone says little: a schedule that ends at zero has its best at the end by design, and part of the last gain
    comes of the small learning rate. So the gain of a further fifth is estimated: gains shrink again as they did from
    the last fifth but one to the last. For `pinyin`, whose last quarter gave 0.7 points, that is 0.2 points or one
    standard error; for `translation` it is 0. A gain after none, as when the learning rate drops, promises no further.
    """
    points = _higher_is_better(evidence)
    if len(points) < LEAST_VALIDATIONS or points[-1][1] <= max(value for _, value in points[:-1]):
        return None
    end = points[-1][0]
    reached = [_until(points, fifths * end / 5) for fifths in (3, 4, 5)]
    if None in reached:
        return None
    (first, low), (second, middle), (_, high) = (own for own in reached if own is not None)
    if not first < second < end:
        return None
    before, last = (middle - low) / (second - first), (high - middle) / (end - second)
    expected = end / 5 * last * (min(last / before, 1.0) if before > 0 else 0.0)
    if expected <= SIGNIFICANT * evidence.noise(evidence.monitor):
        return None
    sign = -1 if evidence.lower_is_better else 1
    return (
        f"the last validation was the best, and {evidence.monitor} was still improving: {sign * middle:.4g} at step "
        f"{second:,}, {sign * high:.4g} at step {end:,}. Train longer"
    )


def best_is_first(evidence: Evidence) -> str | None:
    """The first validation is the best, and what came after it is worse by more than chance."""
    points = _higher_is_better(evidence)
    if len(points) < LEAST_VALIDATIONS or points[0][1] < max(value for _, value in points):
        return None
    if points[0][1] - points[-1][1] <= SIGNIFICANT * evidence.noise(evidence.monitor):
        return None
    sign = -1 if evidence.lower_is_better else 1
    return (
        f"{evidence.monitor} was best at the first validation ({sign * points[0][1]:.4g} at step {points[0][0]:,}) and "
        f"ended at {sign * points[-1][1]:.4g}. Lower the learning rate, or validate more often"
    )


RISE, RISE_OF_MONITORED = 1.5, 1.05
"""Rise of the validation loss over its minimum from which on a model is over-fitted. Where another metric is monitored
the loss grows with the confidence of predictions that are no worse: runs with a good accuracy ended a tenth to a fifth
above the minimum (reviews, TREC). Where the loss itself is monitored, a rise is all loss."""
GAP = 0.75
"""Fraction of the validation loss below which the training loss is far from it. Dropout keeps it above or near."""


def over_fitted(evidence: Evidence) -> str | None:
    """The validation loss has risen from its minimum, the training loss is far below, and the metric gains nothing.

    Where the monitored metric still improves while the loss rises, the model is over-confident, not over-fitted.
    """
    train, validation, monitored = (
        evidence.points("train/loss"),
        evidence.points("val/loss"),
        _higher_is_better(evidence),
    )
    if min(len(validation), len(monitored)) < LEAST_VALIDATIONS or not train:
        return None
    end = validation[-1][0]
    best, _ = max(monitored, key=lambda point: point[1])
    low_step, low = min(validation, key=lambda point: point[1])
    last = validation[-1][1]
    learned = float(np.mean([value for step, value in train if step >= min(0.8 * end, train[-1][0])]))
    rise = RISE_OF_MONITORED if evidence.monitor == "val/loss" else RISE
    has_risen = last > max(rise * low, low + SIGNIFICANT * evidence.noise("val/loss"))
    if best > 0.8 * end or low <= 0 or not has_risen or learned > GAP * last:
        return None
    return (
        f"the validation loss has risen from {low:.4g} at step {low_step:,} to {last:.4g}, and the training loss fell "
        f"to {learned:.4g}. Train for fewer steps, or with more dropout, weight decay or data"
    )


def _higher_is_better(evidence: Evidence) -> list[tuple[int, float]]:
    sign = -1 if evidence.lower_is_better else 1
    return [(step, sign * value) for step, value in evidence.points(evidence.monitor)]


def _until(points: Sequence[tuple[int, float]], step: float) -> tuple[int, float] | None:
    """The last validation up to a step, with the best value so far; None before the first."""
    own = [point for point in points if point[0] <= step]
    return (own[-1][0], max(value for _, value in own)) if own else None
