"""What a finding is, and what a finished run leaves for the rules that look for one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightrail.lightning_modules.metrics.scores import Columns, StoredScore

Severity = Literal["warning", "note"]
"""A warning: the result is not what it could be. A note: it may be."""
Series = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name to (step, value) pairs, in the order of logging."""


@dataclass(frozen=True)
class Finding:
    """What may have gone wrong in a run or a sweep, by a code that stays the same."""

    code: str
    severity: Severity
    message: str
    """What was found, and what to do."""

    @property
    def docs(self) -> str:
        """Section of the guides that explains it."""
        return f"docs/findings.md#{self.code}"

    def __str__(self) -> str:
        return f"finding  {self.code}: {self.message} ({self.docs})"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a finished run leaves for the rules; what is not known is empty."""

    series: Series = field(default_factory=dict)
    """Of the whole run, before and after it was resumed."""
    monitor: str = ""
    """The series by which the best checkpoint was chosen, `val/NAME`."""
    lower_is_better: bool = False
    columns: Columns = field(default_factory=dict)
    """Predictions for the test split, [N] each."""
    scores: Mapping[str, StoredScore] = field(default_factory=dict)
    """Computation of each metric from the columns, by name without `test/`."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """What the task states that is reached without learning, by the name of the metric."""
    num_validation: int = 0
    """Validation examples."""
    is_cut: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Whether examples of a split are cut, as `cut_examples` returns it."""
    max_length: int = 0
    """Length at which they are."""

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return the finite values of a series by step; of a step that was repeated after a resume the last."""
        return sorted((step, value) for step, value in dict(self.series.get(name, ())).items() if math.isfinite(value))

    def noise(self, name: str) -> float:
        """Return the standard error of a validation metric: that of the test predictions, for the validation's size.

        Infinite where there are too few predictions to tell. A metric that no predictions give, as those of a plain
        module, has `UNKNOWN_NOISE` of its last value.
        """
        score = self.scores.get(name.removeprefix("val/"))
        if score is None or not self.columns:
            points = self.points(name)
            return UNKNOWN_NOISE * abs(points[-1][1]) if points else math.inf
        error, num_test = standard_error(score, self.columns)
        return error * math.sqrt(num_test / max(self.num_validation, 1))


Rule: TypeAlias = Callable[[Evidence], str | None]
"""Returns the message of a finding; None when there is none."""

SIGNIFICANT = 2.0
"""Standard errors from which on a difference is more than chance: about what `lightrail compare` shows as different."""
UNKNOWN_NOISE = 0.02
"""Standard error assumed, as a fraction of the value: that of an accuracy of 0.8 on 600 examples."""
NUM_GROUPS = 20
"""Groups of the jackknife: enough for an error known to a fifth or so, and cheap for metrics that need every row."""


def standard_error(score: StoredScore, columns: Columns) -> tuple[float, int]:
    """Return the standard error of a metric by a jackknife over groups of examples, and the number of examples.

    Infinite with fewer than two examples a group.

    Source: B. Efron and C. Stein (1981), "The Jackknife Estimate of Variance".
    """
    rows = score.statistics(columns)
    if len(rows) < 2 * NUM_GROUPS:
        return math.inf, len(rows)
    groups = np.random.default_rng(0).permutation(len(rows)) % NUM_GROUPS  # neighbours in a file are often alike
    values = np.array([score.of_rows(rows[groups != group]) for group in range(NUM_GROUPS)])
    return float(np.sqrt((NUM_GROUPS - 1) * values.var())), len(rows)
