"""The report of an entity run tells types apart and marks what became of each entity."""

from pathlib import Path

import pyarrow as pa
import pytest

from lightrail.project.figures.entity_report import count_outcomes, entity_confidences, type_rows, write_entities
from lightrail.project.figures.marked_text import as_text, marked_sentence

pytestmark = pytest.mark.pictures

TEXT = "Li Wei & Anna met <Acme> in New York"


def row(number: int, predicted: dict[tuple[int, int, str], float], target: str) -> dict[str, object]:
    return {
        "id": number,
        "text": TEXT,
        "prediction": " ".join(f"{start}:{end}:{kind}" for start, end, kind in predicted),
        "target": target,
        "entities": [
            {"start": start, "end": end, "type": kind, "text": TEXT[start:end], "score": score}
            for (start, end, kind), score in predicted.items()
        ],
        "loss": 0.5,
    }


@pytest.fixture
def predictions() -> pa.Table:
    target = "0:6:PER 9:13:PER 19:23:ORG 28:36:LOC"
    every = {(0, 6, "PER"): 0.9, (9, 13, "PER"): 0.9, (19, 23, "ORG"): 0.9, (28, 36, "LOC"): 0.9}
    wrong = {(0, 6, "PER"): 0.8, (14, 17, "LOC"): 0.3, (19, 23, "PER"): 0.5, (32, 36, "LOC"): 0.6}
    return pa.Table.from_pylist([row(0, every, target), row(1, wrong, target)])


def test_each_type_is_counted(predictions: pa.Table) -> None:
    rows = {own.label: own for own in type_rows(predictions, ["LOC", "ORG", "PER"])}
    assert (rows["PER"].precision, rows["PER"].recall) == (3 / 4, 3 / 4)
    assert (rows["LOC"].precision, rows["LOC"].recall, rows["LOC"].support) == (1 / 3, 1 / 2, 2)
    assert (rows["ORG"].precision, rows["ORG"].recall) == (1, 1 / 2)
    assert count_outcomes(predictions) == {"correct": 5, "boundary": 1, "type": 1, "missing": 1, "spurious": 1}
    assert entity_confidences(predictions)[1] == [True] * 5 + [False] * 3


def test_the_worst_mistakes_are_marked(predictions: pa.Table, tmp_path: Path) -> None:
    for name in ("samples", "figures"):
        (tmp_path / name).mkdir()
    write_entities(predictions, ["LOC", "ORG", "PER"], tmp_path)
    text = (tmp_path / "samples" / "worst_mistakes.txt").read_text("utf-8")
    assert text.splitlines() == [
        "#1  4 errors, loss 0.500 nats per word",
        "  expected  [Li Wei PER] & [Anna PER: missing] met <[Acme ORG: wrong type]> in [New York LOC: wrong boundary]",
        "  predicted [Li Wei PER] & Anna [met LOC: spurious] <[Acme PER: wrong type]> in New "
        "[York LOC: wrong boundary]",
    ]
    page = (tmp_path / "samples" / "worst_mistakes.html").read_text("utf-8")
    assert '&amp; <mark class="missing" title="missing: PER">Anna<sub>PER</sub></mark> met &lt;' in page
    assert 'title="spurious: LOC, probability 0.30"' in page
    assert "1 of 1 sentences with an error" in page
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {"entities.png", "entity_reliability.png"}


def test_entities_inside_each_other_stand_on_lines_of_their_own_and_long_gaps_are_left_out() -> None:
    text = "a" * 100 + "Bank of Paris"
    sentence = marked_sentence(0, text, {}, [(100, 113, "ORG"), (108, 113, "LOC")], 1.0)
    gap = "a" * 40 + "…" + "a" * 40
    assert as_text([sentence]).splitlines()[1:] == [
        f"  expected  {gap}[Bank of Paris ORG: missing]",
        f"  expected  {'a' * 40}…{('a' * 32 + 'Bank of ')[-40:]}[Paris LOC: missing]",
        f"  predicted {'a' * 40}…{text[-40:]}",
    ]
