"""Findings from the predictions of a test: nothing was learned, a class is ignored, or confidences are wrong."""

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.label_scores import CalibrationError
from lightrail.lightning_modules.metrics.scores import Columns, CountsByLabel, StoredScore
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import shown
from lightrail.project.findings.finding import Evidence

NUM_DRAWS = 19
"""Random draws to compare with: to be beyond all of 19 has a probability of 5 % by chance."""
LEAST_EXAMPLES = 30
"""Test examples below which nothing is said: chance alone is then as good as most models."""
MOST_EXAMPLES = 2_000
"""Number of examples that are compared with random orders: more change nothing, and take long for BLEU."""


def no_better_than_baseline(evidence: Evidence) -> str | None:
    """The main metric is not above what its task states, one prediction for all, or predictions in random order.

    The two that no task needs to state are for metrics that predictions and targets alone give.
    """
    name = evidence.monitor.removeprefix("val/")
    for stated, baseline in evidence.baselines.items():
        value, is_up = evidence.scores[stated].of(evidence.columns), evidence.scores[stated].higher_is_better
        if value <= baseline if is_up else value >= baseline:
            return f"test/{stated} is {value:.4g}, and without learning it is {baseline:.4g}. {ADVICE}"
    score, pair = evidence.scores.get(name), _pair(evidence.columns)
    if score is None or len(pair.get("target", ())) < LEAST_EXAMPLES:
        return None
    try:
        value, (baseline, how) = score.of(pair), _without_learning(score, pair)
    except KeyError:  # it is of other columns
        return None
    if np.isnan(baseline) or (value > baseline if score.higher_is_better else value < baseline):
        return None
    return f"test/{name} is {value:.4g}, and {how} {baseline:.4g}. {ADVICE}"


ADVICE = "Check the labels, and try other learning rates"


def _pair(columns: Columns) -> dict[str, NDArray[np.generic]]:
    """Predictions and targets of at most `MOST_EXAMPLES` rows, evenly spaced; {} without them."""
    if not {"prediction", "target"} <= columns.keys():
        return {}
    step = -(-len(columns["target"]) // MOST_EXAMPLES) or 1
    return {name: columns[name][::step] for name in ("prediction", "target")}


def _without_learning(score: StoredScore, pair: Columns) -> tuple[float, str]:
    """The best metric of predictions that do not depend on the example, and how it is reached."""
    predictions, targets = pair["prediction"], pair["target"]
    distinct, counts = np.unique(targets, return_counts=True)
    most = distinct[counts.argmax()]
    same = np.full(len(targets), most, dtype=targets.dtype)
    found = [(score.of({**pair, "prediction": same}), f"always predicting {shown(most, 40)} gives")]
    generator = np.random.default_rng(0)
    for _ in range(NUM_DRAWS):
        mixed = predictions[generator.permutation(len(predictions))]
        found.append((score.of({**pair, "prediction": mixed}), "the same predictions in random order reach"))
    defined = [own for own in found if not np.isnan(own[0])]  # a constant has no correlation with anything
    return (max if score.higher_is_better else min)(defined, key=lambda own: own[0], default=(np.nan, ""))


LEAST_OF_A_CLASS = 10
"""Test examples of a class that is missed when it is never predicted: were one in four of them recognised, ten would
show one with a probability of 94 %."""


def class_never_predicted(evidence: Evidence) -> str | None:
    """A class of which the test has enough examples is never predicted."""
    counter = next((own for own in evidence.scores.values() if isinstance(own, CountsByLabel)), None)
    if counter is None or not evidence.columns:
        return None
    counts = counter.by_label(evidence.columns)
    missed = {
        label: expected
        for label, (predicted, expected) in counts.items()
        if not predicted and expected >= LEAST_OF_A_CLASS
    }
    if not missed:
        return None
    named = first_names([shown(label, 40) for label in missed], most=3)
    return (
        f"{len(missed)} of {len(counts)} classes {'is' if len(missed) == 1 else 'are'} never predicted: {named}, "
        f"{sum(missed.values()):,} times in the test. Add examples, weight the loss, or merge classes"
    )


MOST_CALIBRATION_ERROR = 0.1
"""Bound of the calibration error: at 0.1, of the predictions said to be 90 % sure twice as many are wrong as said."""


def calibration_far_off(evidence: Evidence) -> str | None:
    """The calibration error is above a bound, and above what so few examples give with correct confidences."""
    found = next(((name, own) for name, own in evidence.scores.items() if isinstance(own, CalibrationError)), None)
    if found is None or len(evidence.columns.get("score", ())) < LEAST_EXAMPLES:
        return None
    name, score = found
    error = score.of(evidence.columns)
    if not error > MOST_CALIBRATION_ERROR:
        return None
    confidences, generator = evidence.columns["score"].astype(np.float64), np.random.default_rng(0)
    for _ in range(NUM_DRAWS):  # few examples in a bin are never exactly as often right as they are sure
        is_right = generator.random(len(confidences)) < confidences
        if score.of_rows(score.rows(confidences, is_right)) >= error:
            return None
    return (
        f"test/{name} is {error:.3f}: confidences are off by {100 * error:.0f} percentage points on average. Do not "
        f"rely on `score`; a larger validation split calibrates better"
    )
