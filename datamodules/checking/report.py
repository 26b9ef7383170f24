"""A page of plain text about the data, for a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from lightrail.datamodules.checking.facts import SplitFacts, cut_shares, length_percentiles, repeats
from lightrail.datamodules.checking.findings import Finding, Remedies, find
from lightrail.project.basics.tables import aligned

_MAX_LINES = 39
_MAX_LABELS = 10
_MAX_WIDTH = 110


@dataclass(frozen=True)
class DataReport:
    """The splits of a data set, measured once."""

    splits: Sequence[SplitFacts]
    findings: Sequence[Finding]
    max_length: int | None = None
    unit: str = "tokens"

    def render(self) -> str:
        """Give fewer than 40 lines: the splits, their labels, and the findings, warnings first."""
        table = self._split_table()
        lines = [*aligned(table, right=range(1, len(table[0]) - 1)), ""]
        if any(split.label_counts for split in self.splits):
            lines += [*aligned(self._label_table(), right=range(1, len(self.splits) + 1)), ""]
        num_left = len(self.findings)
        for finding in self.findings:
            wrapped = _wrapped(finding)
            if len(lines) + len(wrapped) >= _MAX_LINES:
                break
            lines += wrapped
            num_left -= 1
        if num_left:
            lines.append(f"... and {num_left} more findings")
        return "\n".join(lines if self.findings else [*lines, "nothing to warn of"])

    def _split_table(self) -> list[list[str]]:
        header = ["split", "rows", "distinct", f"{self.unit}: median", "95 %", "99 %", "longest"]
        table = [header if self.max_length is None else [*header, f"cut at {self.max_length:,}"]]
        for split in self.splits:
            lengths = [f"{length:,}" for length in length_percentiles(split.lengths).values()]
            num_distinct = len(split) - len(repeats(split.digests))
            cells = [split.name, f"{len(split):,}", f"{num_distinct:,}", *lengths]
            if self.max_length is not None:
                cells.append(f"{100 * cut_shares(split.lengths, self.max_length)[0]:.1f} %")
            table.append([*cells, f"  {split.source}"])
        table[0].append("  source")
        return table

    def _label_table(self) -> list[list[str]]:
        labels = list(dict.fromkeys(label for split in self.splits for label, _ in split.label_counts.most_common()))
        table = [["label", *(split.name for split in self.splits)]]
        table += [
            [textwrap.shorten(label, 40, placeholder="..."), *(_share(split, [label]) for split in self.splits)]
            for label in labels[:_MAX_LABELS]
        ]
        if rest := labels[_MAX_LABELS:]:
            table.append([f"{len(rest)} more", *(_share(split, rest) for split in self.splits)])
        return table


def report_on(
    splits: Sequence[SplitFacts],
    max_length: int | None = None,
    unit: str = "tokens",
    remedies: Remedies = Remedies(),
) -> DataReport:
    """Measure the splits, the training split first, and judge them; see `find` for the arguments."""
    return DataReport(splits, find(splits, max_length, unit, remedies), max_length, unit)


def _share(split: SplitFacts, labels: Sequence[str]) -> str:
    count = sum(split.label_counts[label] for label in labels)
    return f"{count:,}  {100 * count / max(split.label_counts.total(), 1):5.1f} %"


def _wrapped(finding: Finding) -> list[str]:
    return textwrap.wrap(
        f"{finding.severity:<9}{finding.message}", _MAX_WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False
    )
