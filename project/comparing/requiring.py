"""A condition on a comparison, with which `lightrail compare --require` is a gate for continuous integration."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.comparing.comparison import Comparison
from lightrail.project.comparing.measuring import Difference
from lightrail.project.comparing.metrics_alone import NOT_TESTED, MetricsAlone

_BETTER, _NOT_WORSE = "better", "not_worse"


@dataclass(frozen=True)
class Requirement:
    """What each run must be, against the baseline, by every tested metric."""

    margin: float | None
    """How much worse it may be at most, in units of the metric; None: it must be better."""

    @classmethod
    def read(cls, text: str) -> "Requirement":
        """Read `better` or `not_worse:MARGIN`. Raises: ConfigError."""
        kind, _, number = text.partition(":")
        if text == _BETTER:
            return cls(None)
        try:
            margin = float(number)
        except ValueError:
            margin = math.nan
        if kind != _NOT_WORSE or not 0 <= margin < math.inf:
            raise ConfigError(f"--require {shown(text)}: give better, or not_worse:MARGIN such as not_worse:0.01.")
        return cls(margin)

    def unmet(self, comparison: Comparison | MetricsAlone) -> Iterator[str]:
        """Yield a sentence for each run and tested metric by which this is not shown.

        A run is better where the difference is significant, and not worse where the whole interval of the difference
        lies above -MARGIN (below MARGIN where less is better): a test of non-inferiority on the level of 2.5 %.

        Raises: ConfigError for runs without intervals.
        """
        if isinstance(comparison, MetricsAlone):
            raise ConfigError(f"--require needs intervals. {NOT_TESTED}")
        for own in comparison.measured.differences:
            if own.test is not None and not self._is_met(own):
                yield (
                    f"{comparison.label(own.side)} is not shown to be {self}: {own.metric} {own.value:+.4f} "
                    f"[{own.low:+.4f}, {own.high:+.4f}], p {own.corrected_p:.3f}"
                )

    def _is_met(self, own: Difference) -> bool:
        if self.margin is None:
            return own.is_shown and own.is_better
        return own.low > -self.margin if own.higher_is_better else own.high < self.margin

    def __str__(self) -> str:
        return _BETTER if self.margin is None else f"at most {self.margin:g} worse"
