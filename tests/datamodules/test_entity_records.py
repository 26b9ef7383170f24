"""Entities given by character become spans of units, whatever tool annotated them; what cannot be is refused."""

from pathlib import Path
from typing import Any

import pytest

from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.spans.entity_batches import NO_TAG
from lightrail.project.basics.errors import DataError
from tests.support.tagged_texts import batch_of, entities_of, marked


@pytest.mark.parametrize(
    "entities",
    [
        [{"start": 3, "end": 5, "type": "LOC"}, {"start": 0, "end": 1, "type": "PER"}],
        [[3, 5, "LOC"], [0, 1, "PER"]],
        [{"start_offset": 3, "end_offset": 5, "label": "LOC", "id": 7}, {"start": 0, "end": 1, "label": "PER"}],
        {"PER": {"我": [[0, 1]]}, "LOC": {"北京": [[3, 5]]}},
    ],
)
def test_spans_of_characters_are_read_in_every_form(tmp_path: Path, entities: Any) -> None:
    data = marked(tmp_path, {"text": "我 在北京", "entities": entities})
    assert entities_of(batch_of(data, 0), data.facts()["labels"]) == [[("我", "PER"), ("北京", "LOC")]]
    assert list(batch_of(data, 0)["offsets"][0]) == [(0, 1), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize(("end", "spelt"), [(3, {}), (3, {"text": "北京"}), (4, {"text": "北京"})])
def test_an_end_may_be_the_last_character_unless_the_text_shows_otherwise(
    tmp_path: Path, end: int, spelt: dict[str, str]
) -> None:
    record = {"text": "我在北京", "entities": [{"start": 2, "end": end, "type": "LOC", **spelt}]}
    data = marked(tmp_path, record, ends_inclusive=True)
    assert entities_of(batch_of(data, 0), ["LOC"]) == [[("北京", "LOC")]]


def test_texts_without_entities_are_examples_too(tmp_path: Path) -> None:
    data = marked(tmp_path, {"text": "北京", "entities": [[0, 2, "LOC"]]}, {"text": "好", "entities": []})
    assert batch_of(data)["tags"].tolist() == [[1, 3], [0, NO_TAG]]


def nested(folder: Path, **settings: Any) -> EntityData:
    record = {"text": "北京大学", "entities": [[0, 2, "LOC"], [0, 4, "ORG"], [2, 4, "ORG"], [0, 2, "ORG"]]}
    return marked(folder, record, **settings)


def test_nested_entities_have_spans_and_no_tags(tmp_path: Path) -> None:
    data = nested(tmp_path, has_nested=True)
    batch = batch_of(data, 0)
    assert data.facts()["has_nested"]
    assert "tags" not in batch
    assert batch["spans"].tolist() == [[0, 0, 2, 0], [0, 0, 2, 1], [0, 0, 4, 1], [0, 2, 4, 1]]
    with pytest.raises(DataError, match=r"jsonl:1: entities LOC 0:2 \('北京'\) and ORG 0:2 .* overlap.*has_nested"):
        nested(tmp_path)


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([[0, 9, "X"]], r"X 0:9 \('see Rome'\) is not inside the text, which has 8 characters"),
        ([[-1, 3, "X"]], "is not inside the text"),
        ([[4, 4, "X"]], "is empty"),
        ([[5, 8, "X"]], r"X 5:8 \('ome'\) begins inside a unit or at white space .*data\.units=characters"),
        ([[4, 7, "X"]], "ends inside a unit"),
        ([[3, 8, "X"]], "begins inside a unit or at white space"),
        ([[0, 3, "X"], [0, 3, "X"]], "is a duplicate"),
        ([[0, 3, "a b"]], "'a b' is not a valid type"),
        ([[0, 3]], r"\[0, 3\] is not a valid entity. Write entities as"),
        ([[0, "3", "X"]], "is not a valid entity"),
        ([[True, 3, "X"]], "is not a valid entity"),
        ("PER", "entities are 'PER'. Write them as"),
        ({"PER": [[0, 3]]}, "Write them as"),
        ([{"start": 0, "end": 3, "type": "X", "text": "saw"}], "is annotated as 'saw'"),
    ],
)
def test_an_entity_that_cannot_be_is_refused(tmp_path: Path, entities: Any, message: str) -> None:
    good = {"text": "see Rome", "entities": [[4, 8, "X"]]}
    with pytest.raises(DataError, match=message) as refused:
        marked(tmp_path, good, {"text": "see Rome", "entities": entities}, units="words")
    assert "jsonl:2: " in str(refused.value)
