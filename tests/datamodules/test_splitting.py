"""The split of a text depends on the text and on the split's seed alone."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.cache.building import Deduplicator, split_of, text_digest
from lightrail.project.basics.errors import ConfigError

TEXTS = [f"sentence number {number}" for number in range(20_000)]


def test_splits_have_the_sizes_asked_for() -> None:
    counts = Counter(split_of(text, 1, validation_fraction=0.1, test_fraction=0.2) for text in TEXTS)
    # Three standard deviations of a binomial count are below 1 % of 20,000 rows.
    assert counts["validation"] == pytest.approx(2_000, abs=200)
    assert counts["test"] == pytest.approx(4_000, abs=200)


def test_no_fraction_gives_no_rows() -> None:
    assert {split_of(text, 0, 0.0, 0.0) for text in TEXTS[:1000]} == {"train"}


@given(st.text(), st.integers(-(2**63), 2**63))
def test_equal_texts_land_in_the_same_split(text: str, seed: int) -> None:
    spaced = "  " + text.replace(" ", "\u3000 ") + "\n"
    assert split_of(spaced, seed, 0.3, 0.3) == split_of(text, seed, 0.3, 0.3)


def test_full_width_letters_are_the_same_text() -> None:
    assert text_digest("ＡＢＣ１２３") == text_digest("ABC123")
    assert text_digest("a b") != text_digest("ab")


def test_another_seed_makes_another_split() -> None:
    first, second = ({text for text in TEXTS[:2000] if split_of(text, seed, 0.1, 0.5) == "test"} for seed in (0, 1))
    assert 0.3 < len(first & second) / len(first) < 0.7


def test_the_validation_fraction_does_not_touch_the_test_set() -> None:
    small, large = ([split_of(text, 0, share, 0.2) == "test" for text in TEXTS] for share in (0.0, 0.7))
    assert small == large


def test_a_larger_fraction_keeps_the_rows_of_a_smaller_one() -> None:
    for text in TEXTS[:2000]:
        if split_of(text, 0, 0.1, 0.1) == "validation":
            assert split_of(text, 0, 0.3, 0.1) == "validation"


def test_every_process_makes_the_same_split() -> None:
    program = (
        "from lightrail.datamodules.cache.building import split_of;"
        "print([split_of(str(i), 7, .3, .3) for i in range(50)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    assert result.stdout.strip() == str([split_of(str(number), 7, 0.3, 0.3) for number in range(50)])


def test_the_assignment_is_the_one_of_the_first_release() -> None:
    """Changing the hash would silently change everybody's test set."""
    assert "".join(split_of(str(number), 0, 0.3, 0.3)[1] for number in range(24)) == "rrreareraeraareaearaaera"


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.2, 1.0)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match="sum below 1"):
        split_of("a", 0, validation, test)


def test_duplicates_are_counted() -> None:
    seen = Deduplicator()
    assert [seen.is_new(text) for text in ("a b", "c", " a  b", "ａ b", "d")] == [True, True, False, False, True]
    assert seen.num_dropped == 2
