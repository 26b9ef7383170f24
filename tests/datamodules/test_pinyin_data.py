"""Sentences become one token a character, with targets among the characters each syllable was seen as."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.datamodules.base import SplitConfig
from lightrail.datamodules.pinyin import (
    HANZI,
    NOT_A_CANDIDATE,
    NOT_A_TARGET,
    PAD,
    UNKNOWN,
    PinyinData,
    read_aloud,
)
from lightrail.datamodules.reading import Row
from lightrail.datamodules.typed.spelling import normalised
from lightrail.project.basics.errors import ConfigError, DataError

needs_pypinyin = pytest.mark.skipif(find_spec("pypinyin") is None, reason="needs lightrail[chinese]")
TRAIN = [("我是他，是的", "wo shi ta ， shi de"), ("她是", "ta shi"), ("你a？", "ni a ？"), ("他啊", "ta a")]


def write_tables(folder: Path, **tables: list[tuple[str, str]]) -> dict[str, Any]:
    paths: dict[str, Any] = {"has_syllables": True}
    for name, setting in (("train", "path"), ("validation", "validation_path"), ("test", "test_path")):
        file = folder / f"{name}.tsv"
        rows = tables.get(name, [("是" * len(name), "shi " * len(name))])
        file.write_text("text\tsyllables\n" + "".join(f"{text}\t{tokens}\n" for text, tokens in rows), "utf-8")
        paths[setting] = str(file)
    return paths


def ready(data: PinyinData) -> PinyinData:
    data.prepare_data()
    data.setup("fit")
    return data


def tagged(folder: Path, train: list[tuple[str, str]] = TRAIN, **settings: Any) -> PinyinData:
    return ready(PinyinData(**write_tables(folder, train=train), **settings))


def numbers(data: PinyinData, text: str, syllables: list[str]) -> tuple[list[int], list[int]]:
    encoded = data.encode(Row({"text": text, "syllables": syllables}, "x", 1), data.facts())
    return encoded["input_ids"].tolist(), encoded["labels"].tolist()


def test_candidates_are_counted_and_the_most_frequent_comes_first(tmp_path: Path) -> None:
    facts = tagged(tmp_path).facts()
    assert facts["candidates"] == {
        "a": {"啊": 1},
        "de": {"的": 1},
        "ni": {"你": 1},
        "shi": {"是": 3},
        "ta": {"他": 2, "她": 1},
        "wo": {"我": 1},
    }
    assert list(facts["candidates"]["ta"]) == ["他", "她"]
    rarer_first = tagged(tmp_path, [("他她她", "ta ta ta"), ("它", "ta")]).facts()
    assert list(rarer_first["candidates"]["ta"]) == ["她", "他", "它"]
    assert facts["vocabulary"] == ["a", "de", "ni", "shi", "ta", "wo", "，", "？"]


def test_rare_signs_are_unknown(tmp_path: Path) -> None:
    rows = [("我，我，", "wo ， wo ，"), ("我！", "wo ！")]
    assert tagged(tmp_path, rows, max_other=1).facts()["vocabulary"] == ["wo", "，"]
    assert tagged(tmp_path, rows, max_other=0).facts()["vocabulary"] == ["wo"]


def test_a_target_is_a_place_among_the_candidates(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    number = {token: place for place, token in enumerate(data.facts()["vocabulary"], start=UNKNOWN + 1)}
    assert numbers(data, "她，他", ["ta", "，", "ta"]) == (
        [number["ta"], number["，"], number["ta"]],
        [1, NOT_A_TARGET, 0],
    )


def test_what_was_never_read_so_is_always_an_error_but_no_refusal(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    assert numbers(data, "它", ["ta"])[1] == [NOT_A_CANDIDATE]
    assert numbers(data, "好", ["hao"]) == ([UNKNOWN], [NOT_A_CANDIDATE])
    assert numbers(data, "！", ["！"]) == ([UNKNOWN], [NOT_A_TARGET])


def test_a_letter_is_not_the_syllable_that_is_spelt_like_it(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    assert numbers(data, "a", ["a"]) == ([UNKNOWN], [NOT_A_TARGET])
    assert numbers(data, "啊", ["a"])[1] == [0]


def test_a_batch_is_padded_with_what_is_no_target(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    rows = [{**data.rows("train").row(number), "id": number} for number in (0, 1)]
    batch = data.collate(rows)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 6)
    assert batch["input_ids"][1].tolist()[2:] == [PAD] * 4
    assert batch["labels"].tolist() == [[0, 0, 0, NOT_A_TARGET, 0, 0], [1, 0, *[NOT_A_TARGET] * 4]]
    assert batch["attention_mask"].sum(1).tolist() == [6, 2]
    assert batch["tokens"] == [["wo", "shi", "ta", "，", "shi", "de"], ["ta", "shi"]]
    assert batch["text"] == ["我是他，是的", "她是"]
    assert (batch["num_tokens"], batch["num_targets"]) == (8, 7)


def test_a_space_in_a_sentence_is_a_token(tmp_path: Path) -> None:
    data, tokens = tagged(tmp_path), [" ", "ta", " ", " ", "，", " "]
    row = data.encode(Row({"text": " 他  ， ", "syllables": tokens}, "x", 1), data.facts())
    assert data.collate([{**row, "id": 0}])["tokens"] == [tokens]


def test_facts_of_other_data_number_anew(tmp_path: Path) -> None:
    data = tagged(tmp_path)
    numbers(data, "他", ["ta"])
    other = {"vocabulary": ["ta"], "candidates": {"ta": {"她": 2, "他": 1}}}
    encoded = data.encode(Row({"text": "他", "syllables": ["ta"]}, "x", 1), other)
    assert (encoded["input_ids"].tolist(), encoded["labels"].tolist()) == ([UNKNOWN + 1], [1])


def test_syllables_are_written_as_keyboards_do() -> None:
    assert normalised(" NÜ  lu:e lüe\tXi'an ") == ["nv", "lve", "lve", "xi", "an"]


def test_long_sentences_are_cut_into_pieces_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = [("我是他，是的", "wo shi ta ， shi de"), ("你", "ni")]
    data = tagged(tmp_path, rows, max_length=2, split=SplitConfig(drop_repeats=False))
    pieces = [data.rows("train").row(number) for number in range(len(data.rows("train")))]
    assert [(piece["text"], piece["tokens"]) for piece in pieces] == [
        ("我是", "wo shi"),
        ("他，", "ta ，"),
        ("是的", "shi de"),
        ("你", "ni"),
    ]
    assert [piece["line"] for piece in pieces] == [2, 2, 2, 3]


def test_sentences_of_the_same_hanzi_are_kept_once_and_not_in_train(tmp_path: Path) -> None:
    rows = [("我，是", "wo ， shi"), ("我是！", "wo shi ！"), ("他", "ta"), ("他1", "ta 1"), ("你", "ni")]
    paths = write_tables(tmp_path, train=rows, test=[("我是", "wo shi")])
    kept = {
        drop: list(ready(PinyinData(**paths, drop_similar=drop)).rows("train").values("line")) for drop in (False, True)
    }
    assert kept == {False: [2, 3, 4, 5, 6], True: [4, 6]}


def test_a_pair_of_different_lengths_is_refused(tmp_path: Path) -> None:
    rows = [("我是", "wo shi"), ("我是他", "wo shi")]
    with pytest.raises(DataError, match=r"train\.tsv:3: 2 syllables for 3 characters \('wo shi' / '我是他'\)"):
        tagged(tmp_path, rows)


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"PinyinData\.max_length: expected a whole number of at least 1, found 0"):
        PinyinData("x.txt", max_length=0)


def test_typed_syllables_are_predicted_as_they_stand(tmp_path: Path) -> None:
    trained = tagged(tmp_path)
    (tmp_path / "typed.txt").write_text("wo SHI ta\nzzz , lü\nta\n", encoding="utf-8")
    data = PinyinData(str(tmp_path / "typed.txt"))
    data.adopt(trained.facts())
    data.setup("predict")
    rows = [data.rows("predict").row(number) for number in range(len(data.rows("predict")))]
    assert [row["tokens"] for row in rows] == ["wo shi ta", "zzz   , lv", "ta"]
    assert [row["text"] for row in rows] == ["", "", ""]
    assert np.asarray(rows[1]["input_ids"]).tolist() == [UNKNOWN] * 4  # a space between copied texts is kept


@needs_pypinyin
def test_plain_text_is_cut_into_sentences_and_read_aloud(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("“你好。”他说。银行！\n123，abc。行\n\n", encoding="utf-8")
    (tmp_path / "own.txt").write_text("你好\n", encoding="utf-8")
    own = str(tmp_path / "own.txt")
    data = ready(
        PinyinData(
            str(tmp_path / "plain.txt"), validation_path=own, test_path=own, split=SplitConfig(drop_repeats=False)
        )
    )
    rows = [data.rows("train").row(number) for number in range(len(data.rows("train")))]
    assert [(row["text"], row["tokens"]) for row in rows] == [
        ("“你好。”", "“ ni hao 。 ”"),
        ("他说。", "ta shuo 。"),
        ("银行！", "yin hang ！"),
        ("行", "xing"),  # the sentence before it has no hanzi
    ]


@needs_pypinyin
@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("你好行长的一绿女〇中A1a ，。？！；?;”」…\u3000·㐀\U00020000\U0001f600é"), max_size=30))
def test_every_hanzi_stands_in_one_example_and_every_character_has_one_token(text: str) -> None:
    data = PinyinData("x.txt", max_length=5)
    examples = [row.values for row in data.examples(Row({"text": text}, "x", 1), "train")]
    assert HANZI.findall("".join(example["text"] for example in examples)) == HANZI.findall(text)
    for example in examples:
        assert 1 <= len(example["text"]) == len(example["syllables"]) <= 5
        for character, token in zip(example["text"], example["syllables"], strict=True):
            assert token == character or HANZI.match(character) or character == "〇"


@needs_pypinyin
def test_context_decides_how_a_character_is_read() -> None:
    assert read_aloud("银行行长，行走") == ["yin", "hang", "hang", "zhang", "，", "xing", "zou"]
    assert read_aloud("绿A 1") == ["lv", "A", " ", "1"]


@needs_pypinyin
def test_a_check_counts_unsure_readings_and_traditional_characters(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("银行行了，123。\n漢字銀行。\n", encoding="utf-8")
    path, split = str(tmp_path / "plain.txt"), SplitConfig(drop_repeats=False)
    data = ready(PinyinData(path, validation_path=path, test_path=path, split=split))
    assert [own.message for own in data.report().findings if own.message.startswith("train: ")] == [
        "train: 4 of 8 (50.0 %) hanzi have several readings, and are in no phrase of pypinyin's dictionary that "
        "decides: their syllables may be wrong.",
        "train: 2 of 8 (25.0 %) hanzi are traditional: in Big5, and not in GB 2312.",
    ]
    assert not [own for own in tagged(tmp_path).report().findings if own.message.startswith("train: ")]


def test_facts_that_this_data_taught_cost_no_second_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tagged(tmp_path)
    adopting = PinyinData(**write_tables(tmp_path, train=TRAIN))
    adopting.adopt(dict(reversed(own.facts().items())))  # a checkpoint has them in another order
    monkeypatch.setattr(PinyinData, "encode", None)
    assert ready(adopting).rows("train").row(0)["text"] == "我是他，是的"


def test_facts_in_another_order_number_candidates_otherwise_and_are_encoded_anew(tmp_path: Path) -> None:
    own = tagged(tmp_path)
    facts = own.facts()
    turned = {syllable: dict(reversed(counts.items())) for syllable, counts in facts["candidates"].items()}
    adopting = PinyinData(**write_tables(tmp_path, train=TRAIN))
    adopting.adopt({**facts, "candidates": turned})
    before, after = (list(data.rows("train").values("labels")) for data in (own, ready(adopting)))
    assert before != after
