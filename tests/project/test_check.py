"""`lightrail check`: what it says of good data and of bad, and that it leaves nothing behind."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.running import FOUR_STEPS, QUIET, lightrail

TASK = ["--model=TextClassifier", "--model.encoder.width=16", "--data=TextClassificationData", *FOUR_STEPS, *QUIET]


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def check(folder: Path, *more: str, **splits: Sequence[tuple[str, str]]) -> str:
    """Check texts with labels, and see that nothing was left in the working folder, the default store included."""
    for name, examples in splits.items():
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in examples]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    paths = [f"--data.{name}={folder}/{name}.jsonl" for name in splits]
    before = {file for file in folder.rglob("*") if file.suffix != ".jsonl"}
    outcome = lightrail("check", *TASK, *paths, *more)
    assert (outcome.status, outcome.err) == (0, "")
    assert {file for file in folder.rglob("*") if file.suffix != ".jsonl"} == before
    return outcome.out


def examples(word: str, start: int = 0, number: int = 200) -> list[tuple[str, str]]:
    kinds = (("good", "+"), ("bad", "-"))
    return [(f"{kinds[count % 2][0]} {word} {count}", kinds[count % 2][1]) for count in range(start, start + number)]


def test_good_data_is_described_and_nothing_is_warned_of(tmp_path: Path) -> None:
    shown = check(tmp_path, path=examples("film"), validation_path=examples("play"), test_path=examples("book"))
    lines = [line.split() for line in shown.splitlines()]
    for name in ("train", "validation", "test"):
        assert [name, "200", "200"] in [line[:3] for line in lines]
    assert ["+", "100", "50.0", "%"] in [line[:4] for line in lines]
    assert "warning" not in shown
    assert "no findings" in shown


def test_the_dry_run_has_the_largest_batch(tmp_path: Path) -> None:
    train = [*examples("film", number=199), ("good" * 10, "+")]
    shown = check(tmp_path, path=train, validation_path=examples("play"), test_path=examples("book"))
    assert "M parameters, 32-true" in shown
    assert "GiB at most: largest batch 4 x 40 positions" in shown
    assert "epoch        50 batches" in shown
    assert "run          4 steps of about " in shown


def test_leaks_are_counted_and_shown(tmp_path: Path) -> None:
    leaking = [*examples("book"), *examples("film", start=7, number=3)]
    shown = check(tmp_path, path=examples("film"), validation_path=examples("play"), test_path=leaking)
    assert "3 of 203 (1.5 %) test texts also occur in train" in flat(shown)
    assert f"such as {tmp_path}/test_path.jsonl:201 = {tmp_path}/path.jsonl:8" in flat(shown)


def test_conflicts_and_repeats_are_counted_and_shown(tmp_path: Path) -> None:
    train = [*examples("film"), ("good film 0", "-"), ("bad film 1", "-"), ("bad film 3", "-")]
    shown = check(tmp_path, path=train, validation_path=examples("play"), test_path=examples("book"))
    assert "3 of 203 (1.5 %) train rows repeat an earlier text" in flat(shown)
    assert "1 of 203 (0.5 %) train rows give an earlier text another label" in flat(shown)
    assert f"such as {tmp_path}/path.jsonl:201 = {tmp_path}/path.jsonl:1" in flat(shown)


def test_imbalance_and_rare_labels_are_warned_of(tmp_path: Path) -> None:
    train = [*examples("film"), *((f"fair film {number}", "0") for number in range(4))]
    shown = check(tmp_path, path=train, validation_path=examples("play"), test_path=examples("book"))
    assert "1 label has fewer than 8 train rows (0)" in flat(shown)
    assert "The most frequent label has 25 times the rows of the rarest" in flat(shown)


def test_truncation_is_reported(tmp_path: Path) -> None:
    shown = check(
        tmp_path,
        "--data.max_length=6",
        path=examples("film"),
        validation_path=examples("play"),
        test_path=examples("book"),
    )
    assert "Cut at 6 tokens: 100.0 % of train rows" in flat(shown)


def flat(text: str) -> str:
    """Findings are broken into lines."""
    return " ".join(text.split())
