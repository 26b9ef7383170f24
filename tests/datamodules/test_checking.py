"""The measures agree with a count by hand, and each fault of a data set is found and explained."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.checking import DataReport, Remedies, SplitFacts, report_on
from lightrail.datamodules.checking.facts import conflicts, cut_shares, imbalance, length_percentiles, repeats, shared
from lightrail.datamodules.checking.findings import find
from lightrail.datamodules.reading import ReadingNotes

SMALL = st.lists(st.integers(0, 6), max_size=30)


def split(name: str, rows: Sequence[tuple[str, str]], notes: ReadingNotes | None = None) -> SplitFacts:
    facts = SplitFacts(name, f"{name}.tsv", notes)
    for line, (text, label) in enumerate(rows, 2):
        facts.add(text, file=f"{name}.tsv", line=line, length=len(text), target=label, labels=[label])
    return facts


def sound(name: str, num_rows: int = 1000) -> SplitFacts:
    return split(name, [(f"{name} {number}", "yes" if number % 2 else "no") for number in range(num_rows)])


def messages(*splits: SplitFacts, max_length: int | None = None) -> str:
    return "\n".join(f"{finding.severity}: {finding.message}" for finding in find(splits, max_length))


def digests(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


@given(SMALL)
def test_repeats_are_those_a_loop_finds(values: list[int]) -> None:
    expected = [[values.index(value), row] for row, value in enumerate(values) if values.index(value) != row]
    assert repeats(digests(values)).tolist() == expected


@given(SMALL, SMALL)
def test_shared_texts_are_those_a_loop_finds(first: list[int], second: list[int]) -> None:
    expected = [[first.index(value), row] for row, value in enumerate(second) if value in first]
    assert shared(digests(first), digests(second)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=30))
def test_conflicts_are_those_a_loop_finds(rows: list[tuple[int, int]]) -> None:
    first: dict[int, int] = {}
    expected = []
    for row, (text, target) in enumerate(rows):
        earlier = first.setdefault(text, row)
        if rows[earlier][1] != target:
            expected.append([earlier, row])
    texts, targets = ([pair[index] for pair in rows] for index in (0, 1))
    assert conflicts(digests(texts), digests(targets)).tolist() == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_no_fewer_rows_than_the_percentile_says_are_within_it(lengths: list[int]) -> None:
    for percent, length in length_percentiles(np.array(lengths)).items():
        assert sum(value <= length for value in lengths) >= len(lengths) * percent / 100
        assert sum(value < length for value in lengths) < len(lengths) * percent / 100


def test_measures_of_nothing_are_zero() -> None:
    nothing = np.empty(0, np.int64)
    assert cut_shares(nothing, 4) == (0.0, 0.0)
    assert length_percentiles(nothing) == {50: 0, 95: 0, 99: 0, 100: 0}
    assert imbalance(Counter()) == 1


def test_sound_data_is_not_complained_of() -> None:
    report = report_on([sound("train"), sound("validation"), sound("test")], max_length=100)
    assert not [finding for finding in report.findings if finding.severity == "warning"]
    assert report.render().endswith("no findings")


def test_texts_of_the_test_set_in_train_are_found_whatever_their_spacing() -> None:
    test = split("test", [("new", "yes"), (" train  7", "no"), ("ｔｒａｉｎ 8", "no")])
    found = messages(sound("train"), sound("validation"), test)
    assert "warning: 2 of 3 (66.7 %) test texts also occur in train (such as test.tsv:3 = train.tsv:9)." in found
    assert "validation" not in found


def test_duplicates_and_conflicts_are_found() -> None:
    rows = [(f"text {number}", "yes" if number % 2 else "no") for number in range(500)]
    found = messages(split("train", [*rows, ("text 3", "yes"), ("text 4", "yes")]))
    assert "note: 2 of 502 (0.4 %) train rows repeat an earlier text (such as train.tsv:502 = train.tsv:5)." in found
    assert "warning: 1 of 502 (0.2 %) train rows give an earlier text another label" in found
    assert "(such as train.tsv:503 = train.tsv:6)" in found
    assert "warning: 20 of 520 (3.8 %) train rows repeat" in messages(split("train", [*rows, *rows[:20]]))


@pytest.mark.parametrize(
    ("num_rare", "expected"), [(20, "warning: The most frequent"), (200, "note: The most frequent"), (700, "")]
)
def test_imbalance_is_found(num_rare: int, expected: str) -> None:
    rows = [(str(number), "rare" if number < num_rare else "common") for number in range(1000)]
    assert messages(split("train", rows)).startswith(expected)


def test_labels_that_cannot_be_learned_are_found() -> None:
    train = split("train", [(str(number), "yes") for number in range(300)])
    other = split("test", [(f"test {number}", "Yes") for number in range(300)])
    found = messages(train, other)
    assert "Every train row has the label 'yes'" in found
    assert "test has labels that do not occur in train (Yes)" in found
    rare = split("train", [(str(number), "yes" if number % 2 else "no") for number in range(300)] + [("x", "ja")])
    assert "1 label has fewer than 8 train rows (ja): add rows" in messages(rare)


def test_truncation_is_measured_with_a_length_that_would_do() -> None:
    train = split("train", [("a" * length + str(length), "") for length in range(1, 101)])
    found = messages(train, max_length=50)
    assert "warning: Cut at 50 tokens: " in found
    assert "data.max_length=101 would cut 1 % of the rows at most" in found


def test_what_the_reader_noticed_is_passed_on() -> None:
    notes = ReadingNotes(num_multiline_fields=3, first_multiline_line=7, num_empty_skipped=2, first_empty_line=9)
    train = split("train", [(str(number), "") for number in range(10)], notes)
    found = messages(train)
    assert "warning: 3 quoted fields of train.tsv span several lines, the first at line 7." in found
    assert "note: 2 rows of train.tsv with an empty cell were skipped, the first at line 9." in found


def test_small_test_sets_are_noted() -> None:
    assert "note: test has 25 rows: the standard error of an accuracy on it is up to 10 percentage points" in messages(
        sound("train"), sound("test", 25)
    )


def messy_report() -> DataReport:
    names = ("train", "validation", "test", "another test")
    notes = ReadingNotes(num_multiline_fields=3, first_multiline_line=7, num_empty_skipped=2, first_empty_line=9)
    rows = [(f"text {number % 40}" * 9, f"标签{number % 23}") for number in range(150)]
    return report_on([split(name, rows, notes) for name in names], max_length=10, unit="characters")


def test_a_report_fits_on_a_screen_and_puts_warnings_first() -> None:
    lines = messy_report().render().split("\n")
    assert len(lines) < 40
    assert max(map(len, lines)) <= 110
    assert lines[-1].startswith("... and ")
    severities = [finding.severity for finding in messy_report().findings]
    assert severities == sorted(severities, reverse=True)


def test_a_report_says_what_was_counted() -> None:
    lines = messy_report().render().split("\n")
    assert lines[1].split() == ["train", "150", "40", *["63"] * 4, "100.0", "%", "train.tsv"]
    assert any(line.split()[:4] == ["13", "more", "80", "53.3"] for line in lines)


def test_tables_stay_aligned_with_chinese_names() -> None:
    rows = [("a", "地点"), ("b", "地点"), ("c", "organisation")]
    first, second = report_on([split("train", rows)]).render().split("\n")[4:6]
    assert first.index("%") + 2 == second.index("%")  # each of two wide characters takes two places


def test_a_text_of_train_with_another_label_in_test_is_a_conflict() -> None:
    test = split("test", [("train 7", "yes"), ("train 8", "yes"), ("train 9", "no")])
    found = messages(sound("train"), test)
    assert "warning: 2 of 3 (66.7 %) test rows give a text of train another label" in found
    assert "(such as test.tsv:3 = train.tsv:10): correct them" in found
    assert "another label" not in messages(sound("train"), split("test", [("train 7", "yes"), ("train 8", "no")]))


def test_settings_that_remedy_a_finding_are_named() -> None:
    rows = [("a" * (number % 90), "rare" if number < 20 else "common") for number in range(1000)]
    remedies = Remedies(length="set x", imbalance="y")
    found = "\n".join(finding.message for finding in find([split("train", rows)], 50, remedies=remedies))
    assert "data.max_length=89 would cut 1 % of the rows at most, or set x." in found
    assert "evaluate by macro F1, which weights all labels equally, or set y." in found


def test_rows_of_many_labels_are_counted() -> None:
    facts = SplitFacts("train", "train.tsv")
    for line, labels in enumerate([["a", "b", "c"], [], ["a"], []]):
        facts.add(str(line), file="train.tsv", line=line, length=1, labels=labels)
    found = "\n".join(finding.message for finding in find([facts]))
    assert "train rows have 1.00 labels on average and 3 at most; 2 of 4 (50.0 %) have none." in found
