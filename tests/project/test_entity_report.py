"""The report of an entity run tells types apart and marks what became of each entity."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from lightrail.lightning_modules.figures.entity_figures import OUTCOMES, entity_figures, marked_line
from lightrail.lightning_modules.figures.figure import Bars, MarkedText, Reliability
from lightrail.lightning_modules.metrics.scores import Columns
from lightrail.project.figures.draw import draw
from lightrail.project.figures.marked_text import as_text

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
def columns() -> Columns:
    target = "0:6:PER 9:13:PER 19:23:ORG 28:36:LOC"
    every = {(0, 6, "PER"): 0.9, (9, 13, "PER"): 0.9, (19, 23, "ORG"): 0.9, (28, 36, "LOC"): 0.9}
    wrong = {(0, 6, "PER"): 0.8, (14, 17, "LOC"): 0.3, (19, 23, "PER"): 0.5, (32, 36, "LOC"): 0.6}
    table = pa.Table.from_pylist([row(0, every, target), row(1, wrong, target)])
    return {name: table[name].to_numpy() for name in table.column_names}


def test_each_type_is_counted(columns: Columns) -> None:
    bars, reliability, mistakes = entity_figures(columns, ["LOC", "ORG", "PER"])
    assert isinstance(bars, Bars)
    assert isinstance(reliability, Reliability)
    assert isinstance(mistakes, MarkedText)
    rows = dict(zip(bars.labels, zip(*bars.values.values(), bars.counts, strict=True), strict=True))
    assert rows["PER"][:2] == (3 / 4, 3 / 4)
    assert (*rows["LOC"][:2], rows["LOC"][3]) == (1 / 3, 1 / 2, 2)
    assert rows["ORG"][:2] == (1, 1 / 2)
    assert mistakes.counts == {"correct": 5, "boundary": 1, "type": 1, "missing": 1, "spurious": 1}
    assert reliability.are_correct == [True] * 5 + [False] * 3


def test_the_worst_mistakes_are_marked(columns: Columns, tmp_path: Path) -> None:
    for figure in entity_figures(columns, ["LOC", "ORG", "PER"]):
        draw(figure, tmp_path)
    text = (tmp_path / "samples" / "worst_mistakes.txt").read_text("utf-8")
    assert text.splitlines() == [
        "# example 1: 4 errors, loss 0.500 nats per word",
        "  expected  [Li Wei PER] & [Anna PER: missing] met <[Acme ORG: wrong type]> in [New York LOC: wrong boundary]",
        "  predicted [Li Wei PER] & Anna [met LOC: spurious] <[Acme PER: wrong type]> in New "
        "[York LOC: wrong boundary]",
    ]
    page = (tmp_path / "samples" / "worst_mistakes.html").read_text("utf-8")
    assert '&amp; <mark class="missing" title="missing: PER">Anna<sub>PER −</sub></mark> met &lt;' in page
    assert 'title="spurious: LOC, probability 0.30"' in page
    signs = [sign for _, sign, *_ in OUTCOMES.values()]
    assert len(set(signs)) == len(OUTCOMES)  # not by colour alone
    assert [f">{sign} {words} " in page for words, sign, *_ in OUTCOMES.values()] == [True] * len(OUTCOMES)
    assert "1 of 1 sentences with an error" in page
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {"entities.png", "entity_reliability.png"}


def test_entities_inside_each_other_stand_on_lines_of_their_own_and_long_gaps_are_left_out() -> None:
    text = "a" * 100 + "Bank of Paris"
    row = {"id": 0, "text": text, "entities": [], "target": "100:113:ORG 108:113:LOC", "loss": 1.0}
    counts: Counter[str] = Counter()
    line, num_errors = marked_line(row, counts)
    assert num_errors == 2
    figure = MarkedText(name="a", title="A", lines=[line], outcomes=OUTCOMES, counts=counts)
    gap = "a" * 40 + "…" + "a" * 40
    assert as_text(figure).splitlines()[1:] == [
        f"  expected  {gap}[Bank of Paris ORG: missing]",
        f"  expected  {'a' * 40}…{('a' * 32 + 'Bank of ')[-40:]}[Paris LOC: missing]",
        f"  predicted {'a' * 40}…{text[-40:]}",
    ]
