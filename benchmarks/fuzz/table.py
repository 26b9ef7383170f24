"""Counts of outcomes by kind of input, and the distinct causes of what did not end as it should."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz.outcomes import BAD, OUTCOMES, Outcome
from lightrail.project.basics.tables import aligned


@dataclass(frozen=True)
class Result:
    """How an input ended."""

    name: str
    outcome: Outcome
    seconds: float
    folder: Path
    """Holds the input while it runs, and after it if it has failed."""

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    @property
    def is_failure(self) -> bool:
        return self.outcome.kind in BAD

    @property
    def line(self) -> str:
        return f"{self.name}  {self.outcome.kind}: {self.outcome.signature}  {self.folder}"


@dataclass
class Tally:
    """Counts of results."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind of input and outcome."""
    seconds: Counter[str] = field(default_factory=Counter)
    """By kind of input."""
    failures: dict[Outcome, list[str]] = field(default_factory=dict)
    """Names of inputs by outcome."""

    def add(self, result: Result) -> None:
        """Count a result."""
        self.counts[result.kind, result.outcome.kind] += 1
        self.seconds[result.kind] += result.seconds  # type: ignore[assignment]
        if result.is_failure:
            self.failures.setdefault(result.outcome, []).append(result.name)

    def table(self) -> str:
        """Format the counts, a line for each kind of input."""
        kinds = sorted({kind for kind, _ in self.counts})
        shown = [own for own in OUTCOMES if own not in ("not prepared",) or any(o == own for _, o in self.counts)]
        rows = [[kind, *(str(self.counts[kind, own]) for own in shown), *self._total(kind)] for kind in kinds]
        sums = [str(sum(self.counts[kind, own] for kind in kinds)) for own in shown]
        whole = str(sum(self.counts.values()))
        mean = f"{sum(self.seconds.values()) / max(1, sum(self.counts.values())):.2f}"
        head = ["inputs", *shown, "all", "seconds each"]
        return "\n".join(aligned([head, *rows, ["all", *sums, whole, mean]], right=range(1, len(head))))

    def _total(self, kind: str) -> tuple[str, str]:
        number = sum(count for (own, _), count in self.counts.items() if own == kind)
        return str(number), f"{self.seconds[kind] / number:.2f}"

    def findings(self) -> str:
        """List the distinct causes, most frequent first, each with the name of an input."""
        found = sorted(self.failures.items(), key=lambda item: -len(item[1]))
        lines = [f"{len(names):5}  {own.kind}: {own.signature}  ({names[0]})" for own, names in found]
        return "\n".join([f"{len(lines)} distinct findings", *lines])
