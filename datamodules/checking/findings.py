"""Findings about the splits of a data set, with advice, and their report as text."""

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightrail.datamodules.checking.facts import (
    Pairs,
    SplitFacts,
    conflicts,
    cut_shares,
    imbalance,
    length_percentiles,
    repeats,
    shared,
    shared_conflicts,
)
from lightrail.datamodules.reading.label_names import alike_labels
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import plain, shown
from lightrail.project.basics.tables import aligned

_FEW_ROWS_OF_A_LABEL = 8
_FEW_ROWS_TO_EVALUATE = 200


@dataclass(frozen=True)
class Finding:
    """A fact about the data; a warning also gives advice."""

    severity: Literal["note", "warning"]
    message: str


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """Settings of a datamodule that address a finding, worded to follow "or ". Empty: there is no such setting."""

    length: str = ""
    length_setting: str = "max_length"
    """The setting of `data` for the length at which texts are cut."""
    imbalance: str = ""


def find(
    splits: Sequence[SplitFacts],
    max_length: int | None = None,
    unit: str = "tokens",
    remedies: Remedies = Remedies(),
) -> list[Finding]:
    """Return all findings about the splits, warnings first.

    Args:
        splits: at least one, the training split first.
        max_length: length at which texts are cut, in `unit`; None if nothing is cut.
        remedies: settings to suggest.
    """
    findings: list[Finding] = []
    for split in splits:
        findings += _reading(split)
        findings += _windows(split)
        findings += _left_out(split)
        findings += [Finding("note", f"{split.name}: {remark}") for remark in split.remarks]
    findings += _lengths(splits, max_length, unit, remedies)
    for earlier, later in itertools.combinations(splits, 2):
        findings += _overlap(earlier, later)
    for split in splits:
        findings += _duplicates(split)
    findings += _labels(splits, remedies.imbalance)
    findings += _sizes(splits)
    return sorted(findings, key=lambda finding: finding.severity == "note")


def _overlap(earlier: SplitFacts, later: SplitFacts) -> Iterator[Finding]:
    pairs = shared(earlier.digests, later.digests)
    if len(pairs):
        yield Finding(
            "warning",
            f"{_count(len(pairs), len(later))} {later.name} texts also occur in {earlier.name} "
            f"({_example(earlier, later, pairs)}). Scores on them are inflated by memorisation: "
            f"data.split.drop_repeats=true keeps them in {later.name}, once each, and drops them from {earlier.name}.",
        )
    pairs = shared_conflicts(earlier, later)
    if len(pairs):
        yield Finding(
            "warning",
            f"{_count(len(pairs), len(later))} {later.name} rows give a text of {earlier.name} another label "
            f"({_example(earlier, later, pairs)}): correct them.",
        )


def _duplicates(split: SplitFacts) -> Iterator[Finding]:
    pairs = repeats(split.digests)
    if len(pairs):
        is_many = len(pairs) > 0.01 * len(split)
        advice = " They count more than others: data.split.drop_repeats=true keeps one of each." if is_many else ""
        yield Finding(
            "warning" if is_many else "note",
            f"{_count(len(pairs), len(split))} {split.name} rows repeat an earlier text "
            f"({_example(split, split, pairs)}).{advice}",
        )
    pairs = conflicts(split.digests, split.targets)
    if len(pairs):
        yield Finding(
            "warning",
            f"{_count(len(pairs), len(split))} {split.name} rows give an earlier text another label "
            f"({_example(split, split, pairs)}). No model can predict both: correct or drop them.",
        )


def _reading(split: SplitFacts) -> Iterator[Finding]:
    notes = split.notes
    if notes.num_multiline_fields:
        yield Finding(
            "warning",
            f"{notes.num_multiline_fields:,} quoted fields of {split.source} span several lines, the first at line "
            f"{notes.first_multiline_line}. If a stray quote has merged rows there, set data.reading.quoting=none.",
        )
    if notes.num_empty_skipped:
        yield Finding(
            "note",
            f"{notes.num_empty_skipped:,} rows of {split.source} with an empty cell were skipped, the first at line "
            f"{notes.first_empty_line}.",
        )
    if notes.num_illegal_tags:
        yield Finding(
            "warning",
            f"{notes.num_illegal_tags:,} tags of {split.source} are invalid in their scheme, the "
            f"first at line {notes.first_illegal_line}. Correct them; data.illegal_tags decides how they are read.",
        )
    if notes.num_respelt_labels:
        yield Finding(
            "note",
            f"{notes.num_respelt_labels:,} rows of {split.source} have a label with white space around it or not in "
            f"Unicode normal form C, the first at line {notes.first_respelt_line}: it is read as the label without.",
        )
    if notes.num_moved_to_train:
        yield Finding(
            "warning",
            f"{notes.num_moved_to_train:,} rows of {split.source} stay in train, the first at line "
            f"{notes.first_moved_line}, since no other training row has their label: such labels are not evaluated. "
            f"Add rows of them, or merge or drop them.",
        )


def _windows(split: SplitFacts) -> Iterator[Finding]:
    if split.num_in_windows:
        yield Finding(
            "note",
            f"{_count(split.num_in_windows, len(split))} {split.name} texts are longer than a window and are read in "
            f"several, {split.num_windows / len(split):.2f} per text on average.",
        )


def _left_out(split: SplitFacts) -> Iterator[Finding]:
    if split.num_left_out:
        total = len(split) + split.num_left_out
        yield Finding(
            "note",
            f"{_count(len(split), total)} {split.name} texts were checked, sampled by their content: either all "
            f"copies of a text are among them, or none.",
        )


def _lengths(splits: Sequence[SplitFacts], max_length: int | None, unit: str, remedies: Remedies) -> Iterator[Finding]:
    shares = {} if max_length is None else {split.name: cut_shares(split.lengths, max_length) for split in splits}
    if any(rows for rows, _ in shares.values()):
        is_much = any(rows > 0.01 for rows, _ in shares.values())
        parts = [
            f"{100 * rows:.1f} % of {name} rows ({100 * lost:.1f} % of all {unit})"
            for name, (rows, lost) in shares.items()
        ]
        enough = max(length_percentiles(split.lengths)[99] for split in splits)
        other = remedies.length and f", or {remedies.length}"
        advice = f" data.{remedies.length_setting}={enough} would cut 1 % of the rows at most{other}."
        yield Finding(
            "warning" if is_much else "note", f"Cut at {max_length:,} {unit}: {', '.join(parts)}.{advice * is_much}"
        )


def _labels(splits: Sequence[SplitFacts], remedy: str) -> Iterator[Finding]:
    train, *others = splits
    counts = train.label_counts
    if not counts:
        return
    if len(counts) == 1 and not train.num_unlabelled:
        yield Finding(
            "warning", f"Every {train.name} row has the label {shown(next(iter(counts)))}: nothing can be learned."
        )
    rare = sorted(label for label, count in counts.items() if count < _FEW_ROWS_OF_A_LABEL)
    if rare:
        yield Finding(
            "warning",
            f"{len(rare)} label{'s have' if len(rare) > 1 else ' has'} fewer than {_FEW_ROWS_OF_A_LABEL} {train.name} "
            f"rows ({_some(rare)}): add rows, or merge or drop such labels.",
        )
    if alike := alike_labels({label for split in splits for label in split.label_counts}):
        pairs = "; ".join(_some([shown(label) for label in labels]) for labels in alike[:5])
        yield Finding(
            "warning",
            f"{len(alike)} label{'s are' if len(alike) > 1 else ' is'} spelt in several ways ({pairs}), which count as "
            f"different labels and differ in case, width, white space or decimals alone: unify them.",
        )
    ratio = imbalance(counts)
    if ratio >= 3:
        yield Finding(
            "warning" if ratio >= 10 else "note",
            f"The most frequent label has {ratio:,.0f} times the rows of the rarest: evaluate by macro F1, which "
            f"weights all labels equally{remedy and f', or set {remedy}'}.",
        )
    if train.most_labels > 1:
        mean = counts.total() / len(train)
        yield Finding(
            "note",
            f"{train.name} rows have {mean:.2f} labels on average and {train.most_labels} at most; "
            f"{_count(train.num_unlabelled, len(train))} have none.",
        )
    for other in others:
        unseen = sorted(other.label_counts.keys() - counts.keys())
        if unseen:
            yield Finding(
                "warning",
                f"{other.name} has labels that do not occur in {train.name} ({_some(unseen)}): correct their "
                f"spelling, or add rows of them to {train.name}.",
            )


def _sizes(splits: Sequence[SplitFacts]) -> Iterator[Finding]:
    for split in splits[1:]:
        if len(split) < _FEW_ROWS_TO_EVALUATE:
            error = 100 * (0.25 / max(len(split), 1)) ** 0.5
            yield Finding(
                "note",
                f"{split.name} has {len(split)} rows: the standard error of an accuracy on it is up to {error:.0f} "
                f"percentage points.",
            )


def _example(first: SplitFacts, second: SplitFacts, pairs: Pairs) -> str:
    return f"such as {second.place(int(pairs[0, 1]))} = {first.place(int(pairs[0, 0]))}"


def _count(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.1f} %)"


def _some(names: Sequence[str]) -> str:
    return first_names(names, most=5)


_MAX_LINES = 39
_MAX_LABELS = 10
_MAX_WIDTH = 110


@dataclass(frozen=True)
class DataReport:
    """Facts and findings of the splits of a data set."""

    splits: Sequence[SplitFacts]
    findings: Sequence[Finding]
    max_length: int | None = None
    unit: str = "tokens"

    def render(self) -> str:
        """Return the report in fewer than 40 lines: the splits, their labels, and the findings, warnings first."""
        table = self._split_table()
        lines = [*aligned(table, right=range(1, len(table[0]) - 1)), ""]
        if any(split.label_counts for split in self.splits):
            lines += [*aligned(self._label_table(), right=range(1, len(self.splits) + 1)), ""]
        lines += self._forms()
        num_left = len(self.findings)
        for finding in self.findings:
            wrapped = _wrapped(finding)
            if len(lines) + len(wrapped) >= _MAX_LINES:
                break
            lines += wrapped
            num_left -= 1
        if num_left:
            lines.append(f"... and {num_left} more findings")
        return "\n".join(lines if self.findings else [*lines, "no findings"])

    def as_plain(self) -> dict[str, Any]:
        """Return the facts of each split, and the findings, as plain values."""
        splits = {
            split.name: {
                "source": split.source,
                "rows": len(split),
                "distinct": len(split) - len(repeats(split.digests)),
                f"{self.unit}_percentiles": length_percentiles(split.lengths),
                "cut_share": None if self.max_length is None else cut_shares(split.lengths, self.max_length)[0],
                "labels": dict(split.label_counts.most_common()),
            }
            for split in self.splits
        }
        return {"splits": splits, "findings": [asdict(finding) for finding in self.findings]}

    def _forms(self) -> list[str]:
        """How the files were recognised, one line for those read alike."""
        forms: dict[str, list[str]] = {}
        for split in self.splits:
            forms.setdefault(split.notes.form, []).append(split.name)
        said = [f"{', '.join(names)}: {form}" for form, names in forms.items() if form]
        return [*said, ""] if said else []

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
            [plain(label, 40), *(_share(split, [label]) for split in self.splits)] for label in labels[:_MAX_LABELS]
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
    """Return the report on the splits, the training split first; see `find` for the arguments."""
    return DataReport(splits, find(splits, max_length, unit, remedies), max_length, unit)


def _share(split: SplitFacts, labels: Sequence[str]) -> str:
    count = sum(split.label_counts[label] for label in labels)
    return f"{count:,}  {100 * count / max(split.label_counts.total(), 1):5.1f} %"


def _wrapped(finding: Finding) -> list[str]:
    return textwrap.wrap(
        f"{finding.severity:<9}{finding.message}", _MAX_WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False
    )
