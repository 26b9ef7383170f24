"""Language models are compared on common texts, whatever their tokenizers, of tables made up by the test."""

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from lightrail.lightning_modules.metrics.language_scores import BitsPerUnit, Perplexity
from lightrail.lightning_modules.metrics.scores import Score, SumRatio, WeightedMean
from lightrail.project.basics.errors import ConfigError
from lightrail.project.comparing.comparison import Comparison, as_json, compare
from lightrail.project.comparing.entries import Entry, ScoredRun, with_common_texts
from lightrail.project.comparing.markdown import as_markdown
from lightrail.project.comparing.page import as_html
from lightrail.project.models.predictions import write_predictions

SCORES: dict[str, Score] = {
    "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
    "perplexity": Perplexity(higher_is_better=False),
    "bits_per_character": BitsPerUnit(units="num_characters", higher_is_better=False),
    "bits_per_byte": BitsPerUnit(units="num_bytes", higher_is_better=False),
    "token_accuracy": SumRatio(numerator="num_correct", denominator="num_targets"),
}
DOCUMENTS = ["山有木兮木有枝", "ab", "", "心悦君兮君不知，ok"]


def table_of(rows: Sequence[tuple[str, float, int]]) -> pa.Table:
    """Of a text, its nats in all and its tokens."""
    texts, nats, counts = zip(*rows, strict=True)
    return pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "text": texts,
            "loss": pa.array([own / max(1, count) for own, count in zip(nats, counts, strict=True)], pa.float32()),
            "num_targets": counts,
            "num_correct": [count // 2 for count in counts],
            "num_characters": [len(text) for text in texts],
            "num_bytes": [len(text.encode()) for text in texts],
            "score": pa.array([0.5] * len(rows), pa.float32()),
        }
    )


def entry(letter: str, table: pa.Table) -> Entry:
    run = ScoredRun(letter * 32, letter, "digest", table, SCORES, "loss")
    return Entry(letter * 32, letter, "7", {}, [run], is_group=False)


def cut_rows(length: int, nats_per_character: float) -> list[tuple[str, float, int]]:
    """Pieces of `length` characters, a token each; a document's end, a token that spells nothing, costs a nat."""
    rows = []
    for document in DOCUMENTS:
        pieces = [document[start : start + length] for start in range(0, len(document), length)] or [""]
        rows += [
            (piece, nats_per_character * len(piece) + is_last, len(piece) + is_last)
            for piece, is_last in zip(pieces, [False] * (len(pieces) - 1) + [True], strict=True)
        ]
    return rows


def compared(*tables: pa.Table) -> Comparison:
    return compare([entry("abc"[place], table) for place, table in enumerate(tables)], "sqlite:////x.db", (), 200)


def test_rows_are_joined_up_to_the_ends_that_all_share() -> None:
    short, long = table_of(cut_rows(2, 1.0)), table_of(cut_rows(4, 2.0))
    entries, notes = with_common_texts([entry("a", short), entry("b", long)])
    one, other = (own.runs[0].table for own in entries)
    # The empty document goes with the one before it: where it lies among the others cannot be told by characters.
    assert one["text"].to_pylist() == ["山有木兮", "木有枝", "ab", "心悦君兮", "君不知，", "ok"]
    for column in ("id", "text", "num_characters", "num_bytes", "num_targets"):
        assert one[column].to_pylist() == other[column].to_pylist()
    for joined, plain in ((one, short), (other, long)):
        for score in SCORES.values():
            columns = [{name: own[name].to_numpy() for name in own.column_names} for own in (joined, plain)]
            assert score.of(columns[0]) == pytest.approx(score.of(columns[1]), rel=1e-6)
    assert notes == []


def test_scores_per_token_are_left_out_where_tokens_differ() -> None:
    # The second run spells two characters with each token.
    halved = [(text, nats, math.ceil(count / 2)) for text, nats, count in cut_rows(9, 1.5)]
    comparison = compared(table_of(cut_rows(3, 1.0)), table_of(halved))
    assert list(comparison.measured.estimates) == ["bits_per_character", "bits_per_byte"]
    first, second = (own.value for own in comparison.measured.estimates["bits_per_character"])
    num_characters = sum(map(len, DOCUMENTS))
    assert first == pytest.approx((num_characters + 4) / num_characters / math.log(2))
    assert second == pytest.approx((1.5 * num_characters + 4) / num_characters / math.log(2))
    assert "loss, perplexity, token_accuracy: left out, as the runs divide the texts into different tokens." in (
        comparison.notes
    )


def test_equal_rows_stay_as_they_are_with_all_their_scores() -> None:
    comparison = compared(table_of(cut_rows(3, 1.0)), table_of(cut_rows(3, 1.2)))
    assert comparison.main_metric == "loss"
    assert set(comparison.measured.estimates) == set(SCORES)
    estimate = comparison.measured.estimates["perplexity"][1]
    assert estimate.low < estimate.value < estimate.high
    assert comparison.num_rows == len(cut_rows(3, 1.0))


def test_runs_that_read_less_are_refused() -> None:
    with pytest.raises(ConfigError, match="examples of the same test set"):
        compared(table_of(cut_rows(3, 1.0)), table_of(cut_rows(3, 1.0)[:-1]))
    rows = cut_rows(3, 1.0)
    with pytest.raises(ConfigError, match="differ in the column 'num_characters'"):
        compared(table_of(rows), table_of([("山", *rows[0][1:]), *rows[1:]]))


def test_texts_with_the_most_different_bits_are_shown() -> None:
    one, other = cut_rows(9, 1.0), cut_rows(9, 1.0)
    other[1] = ("ab", 9.0, 3)
    comparison = compared(table_of(one), table_of(other))
    assert [(example.input, example.target) for example in comparison.examples[:1]] == [("ab", None)]
    bits = [answer.loss for answer in comparison.examples[0].answers]
    assert bits == pytest.approx([1.5 / math.log(2), 4.5 / math.log(2)])
    markdown, page = as_markdown(comparison), as_html(comparison)
    for said in (markdown, page):
        assert f"{bits[1]:.4f}" in said
        assert "target" not in said.partition("differ most")[2].partition("Settings in which")[0]
    assert "its per character" in markdown
    assert '"target": null' in as_json(comparison)


def test_texts_with_the_highest_loss_are_stored_where_there_are_no_predictions(tmp_path: Path) -> None:
    table = table_of([("likely", 1.0, 7), ("unlikely", 50.0, 9), ("middling", 9.0, 9)])
    write_predictions(table, tmp_path, SCORES, "loss")
    lines = (tmp_path / "samples" / "highest_losses.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[1] for line in lines] == ['"text"', '"unlikely"', '"middling"', '"likely"']
    assert not (tmp_path / "samples" / "worst_mistakes.csv").exists()
    assert pa.parquet.read_table(tmp_path / "predictions" / "test.parquet").num_rows == 3
