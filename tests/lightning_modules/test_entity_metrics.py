"""Entities are counted as seqeval and nervaluate count them, and stored predictions say the same."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, IOBES

from lightrail.lightning_modules.metrics.entity_scores import (
    Entity,
    counts_by_type,
    entity_scores,
    metric_names,
    outcomes,
    read,
    written,
)
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.project.basics.errors import DataError
from lightrail.project.models.predictions import scores_from_json, scores_to_json

TYPES = ["LOC", "ORG", "PER"]


@st.composite
def sentences(draw: st.DrawFn) -> list[tuple[int, list[Entity], list[Entity]]]:
    """Numbers of words, and predicted and expected entities that do not overlap."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    made = []
    for _ in range(draw(st.integers(1, 6))):
        length = generator.randint(1, 12)
        expected = flat_entities(generator, length)
        made.append((length, expected if generator.random() < 0.3 else flat_entities(generator, length), expected))
    return made


def flat_entities(generator: random.Random, length: int) -> list[Entity]:
    entities, place = [], 0
    while place < length:
        width = generator.randint(1, 3)
        if generator.random() < 0.5 and place + width <= length:
            entities.append((place, place + width, generator.choice(TYPES)))
            place += width
        else:
            place += 1
    return entities


def tags(length: int, entities: list[Entity], letters: str) -> list[str]:
    """By letters for begin, inside, end and single."""
    made = ["O"] * length
    for start, end, kind in entities:
        made[start:end] = [f"{letters[1]}-{kind}"] * (end - start)
        made[end - 1] = f"{letters[2]}-{kind}"
        made[start] = f"{letters[0] if end - start > 1 else letters[3]}-{kind}"
    return made


def measured(made: list[tuple[int, list[Entity], list[Entity]]]) -> dict[str, float]:
    sums = ScoreSums(entity_scores(TYPES))
    for _, predicted, expected in made:  # one batch each: sums must add up
        sums.update({"prediction": [written(predicted)], "target": [written(expected)]})
    return sums.compute()


@given(sentences())
@pytest.mark.parametrize(("letters", "scheme"), [("BIES", IOBES), ("BIIB", IOB2)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_they_are_those_of_seqeval_in_strict_and_in_default_mode(
    letters: str, scheme: type, made: list[tuple[int, list[Entity], list[Entity]]]
) -> None:
    predicted = [tags(length, own, letters) for length, own, _ in made]
    expected = [tags(length, own, letters) for length, _, own in made]
    ours = measured(made)
    theirs = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    for mode in ({"mode": "strict", "scheme": scheme}, {}):
        for name, score in theirs.items():
            assert ours[name] == pytest.approx(score(expected, predicted, zero_division=0, **mode)), (name, mode)
        macro = f1_score(expected, predicted, average="macro", zero_division=0, **mode) if any_entity(made) else 0.0
        assert ours["f1_macro"] == pytest.approx(macro)
        if any_entity(made):
            by_type = f1_score(expected, predicted, average=None, zero_division=0, **mode).tolist()
            present = sorted({kind for _, one, other in made for _, _, kind in [*one, *other]})
            assert [ours[f"f1_{kind}"] for kind in present] == pytest.approx(by_type)


def as_spans(entities: list[Entity]) -> list[dict[str, object]]:
    return [{"label": kind, "start": start, "end": end - 1} for start, end, kind in entities]


def any_entity(made: list[tuple[int, list[Entity], list[Entity]]]) -> bool:
    return any(predicted or expected for _, predicted, expected in made)


@given(sentences())
def test_errors_are_those_of_nervaluate(made: list[tuple[int, list[Entity], list[Entity]]]) -> None:
    ours = measured(made)
    predicted, expected = [as_spans(own) for _, own, _ in made], [as_spans(own) for _, _, own in made]
    overall = Evaluator(expected, predicted, tags=TYPES, loader="dict").evaluate()["overall"]
    strict, exact = overall["strict"], overall["exact"]
    wrong = ours["boundary_errors"] + ours["type_errors"] + ours["boundary_and_type_errors"]
    assert (wrong, ours["missing_entities"], ours["spurious_entities"]) == (
        strict.incorrect,
        strict.missed,
        strict.spurious,
    )
    assert ours["type_errors"] == exact.correct - strict.correct
    assert ours["f1"] == pytest.approx(strict.f1)


def test_each_error_is_told_from_the_others() -> None:
    expected = [(0, 2, "PER"), (3, 5, "LOC"), (6, 8, "ORG"), (9, 11, "PER"), (12, 13, "LOC")]
    predicted = [(0, 2, "PER"), (3, 6, "LOC"), (6, 8, "PER"), (10, 12, "ORG"), (14, 15, "ORG")]
    found = [(outcome, own, other) for outcome, own, other in outcomes(predicted, expected)]
    assert found == [
        ("correct", (0, 2, "PER"), (0, 2, "PER")),
        ("boundary", (3, 6, "LOC"), (3, 5, "LOC")),
        ("type", (6, 8, "PER"), (6, 8, "ORG")),
        ("boundary_and_type", (10, 12, "ORG"), (9, 11, "PER")),
        ("missing", None, (12, 13, "LOC")),
        ("spurious", (14, 15, "ORG"), None),
    ]


@given(sentences())
def test_stored_predictions_give_every_metric_again(made: list[tuple[int, list[Entity], list[Entity]]]) -> None:
    columns = {
        "prediction": np.array([written(predicted) for _, predicted, _ in made], object),
        "target": np.array([written(expected) for _, _, expected in made], object),
    }
    scores = scores_from_json(scores_to_json(entity_scores(TYPES)))
    assert {name: score.of(columns) for name, score in scores.items()} == pytest.approx(measured(made))


def test_macro_f1_leaves_out_types_that_do_not_occur() -> None:
    made = [(4, [(0, 1, "PER"), (2, 3, "ORG")], [(0, 1, "PER")])]
    assert measured(made)["f1_macro"] == pytest.approx((1 + 0) / 2)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["A", "人 名", "x:1:y", "B C"]))))
def test_what_is_written_is_read_again(entities: list[Entity]) -> None:
    assert read(written(entities)) == sorted(entities)


def test_metric_names_are_such_as_mlflow_takes_and_no_two_are_equal() -> None:
    names = metric_names(["人名", "a&b", "a+b", "macro"])
    assert list(names.values()) == ["f1_人名", "f1_a-b", "f1_a-b_2", "f1_macro_2"]


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(DataError, match="0:1:X is of none of the 3 types"):
        counts_by_type([(0, 1, "X")], [], TYPES)
