"""What rows can hold beside texts: lists, missing values, rare labels, several spellings, far too much."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lightrail.datamodules.base import DataModule, ReadingConfig, SplitConfig
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.instructions import InstructionData
from lightrail.datamodules.pinyin import PinyinData
from lightrail.datamodules.reading import read_rows
from lightrail.datamodules.reading.rows import MOST_CHARACTERS, is_missing, text_value
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.datamodules.typed.spelling import normalised
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import DataError, Refusal
from lightrail.project.basics.tokens.dialogues import chat_segments, turns_of

PLAIN_TEMPLATE = (
    "{% for m in messages %}<{{m.role}}>{{m.content}}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
THIRDS = SplitConfig(validation_fraction=0.3, test_fraction=0.3)


def json_lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def labelled(path: Path, labels: Sequence[Any], text: str = "room {} was fine") -> str:
    return json_lines(path, [{"text": text.format(number), "label": label} for number, label in enumerate(labels)])


def prepared(data: DataModule) -> DataModule:
    data.setup("fit")
    return data


ONE_LIST = [{name: ["so", "it", "goes"] for name in ("text", "second", "prompt", "response", "context", "syllables")}]


@pytest.mark.parametrize(
    ("make", "fields", "column", "setting"),
    [
        (TextClassificationData, {}, "text", "text_column"),
        (TextClassificationData, {"pair_column": "second"}, "second", "pair_column"),
        (PinyinData, {}, "text", ""),
        (PinyinData, {"has_syllables": True}, "syllables", ""),
        (CausalLMData, {"encoding_processes": 1}, "text", "text_column"),
        (InstructionData, {"template": "{prompt}{response}"}, "prompt", "prompt_column"),
        (InstructionData, {"template": "{prompt}{response}"}, "response", "response_column"),
        (InstructionData, {"template": "{prompt}{response}", "context_column": "context"}, "context", "context_column"),
        (EntityData, {}, "text", "text_column"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_a_list_is_no_text(
    tmp_path: Path, make: type[Any], fields: dict[str, Any], column: str, setting: str, stage: str
) -> None:
    names = {"text", "second", "prompt", "response", "context", "syllables", "entities", "label"} - {column}
    row = {**dict.fromkeys(names, "a"), "entities": [], column: ["so", "it", "goes"]}
    data = make(path=json_lines(tmp_path / "a.jsonl", [row]), **fields)
    if stage == "predict":
        data.adopt({})
    with pytest.raises(DataError, match=rf"a\.jsonl:1: column '{column}' holds a list of 3, .*Join them.*{setting}"):
        data.setup(stage)


MISSING = [None, math.nan, math.inf, np.float32("nan"), np.float64("-inf")]


@pytest.mark.parametrize("value", MISSING)
def test_a_number_that_is_not_finite_is_missing(value: object) -> None:
    assert is_missing(value)
    assert text_value(value, "a:1", "label") is None
    with pytest.raises(DataError, match=r"a:1: column 'label' holds list"):
        text_value(["x", value], "a:1", "label")
    assert [text_value(own, "a:1", "label") for own in ("nan", "", 0, np.int8(3), np.float32(0.5), True)] == [
        "nan", "", "0", "3", "0.5", "true",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [{"a": 1}, b"abc", np.ones(3)])
def test_a_value_that_is_no_text_is_quoted_in_short(value: object) -> None:
    with pytest.raises(DataError, match=r"a:1: column 'text' holds (dict|bytes|ndarray) .*expected a text"):
        text_value(value, "a:1", "text")
    with pytest.raises(DataError) as caught:
        text_value({"a": "x" * 10**7}, "a:1", "text")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_rows_with_a_missing_label_are_refused_or_skipped_and_never_a_class(tmp_path: Path, name: str) -> None:
    labels = [math.nan if number % 10 == 3 else float(number % 2) for number in range(200)]
    texts = [f"room {number}" for number in range(200)]
    path = str(tmp_path / name)
    if name == "a.parquet":
        pyarrow.parquet.write_table(pa.table({"text": texts, "label": pa.array(labels, from_pandas=False)}), path)
    else:
        labelled(tmp_path / name, labels, "room {}")
    with pytest.raises(DataError, match=rf"{name}:4: column 'label' holds no value \(null\) or no finite number"):
        TextClassificationData(path).setup("fit")
    with pytest.raises(DataError, match="holds no value"):
        TextClassificationData(path, reading=ReadingConfig(empty="keep")).setup("fit")
    data = prepared(TextClassificationData(path, reading=ReadingConfig(empty="skip")))
    assert data.facts()["labels"] == ["0.0", "1.0"]
    assert "20 rows" in data.report().render()


def test_a_missing_text_is_no_document(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path / "a.jsonl", [{"text": f"page {number}" if number else math.nan} for number in range(60)]
    )
    with pytest.raises(DataError, match=r"a\.jsonl:1: column 'text' holds no value"):
        CausalLMData(path, encoding_processes=1).setup("fit")
    data = prepared(CausalLMData(path, encoding_processes=1, reading=ReadingConfig(empty="skip")))
    assert sum(len(data.rows(split)) for split in ("train", "validation", "test")) == 59


@pytest.mark.parametrize("has_many_labels", [False, True])
def test_labels_that_the_division_would_hide_from_training_stay_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_many_labels: bool
) -> None:
    path = labelled(tmp_path / "a.jsonl", [f"topic-{number // 2}" for number in range(200)])
    data = TextClassificationData(path, split=THIRDS, has_many_labels=has_many_labels)
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert len(data.facts()["labels"]) == 100
    assert min(data.facts()["label_counts"]) >= 1
    assert "occur in no other training example" in caplog.text
    report = " ".join(data.report().render().split())
    assert "rows of" in report
    assert "stay in train" in report
    digests = [summary.digest for summary in data.summaries()]
    assert len(set(digests)) == 3


def test_nothing_moves_when_training_has_every_label(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.jsonl", ["a", "b"] * 60)
    data = prepared(TextClassificationData(path, split=THIRDS))
    assert "stay in train" not in data.report().render()


def test_a_label_for_each_row_is_explained(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.jsonl", [f"id-{number}" for number in range(60)])
    with pytest.raises(DataError, match=r"no validation examples .* stay in train.*name the column of the labels"):
        TextClassificationData(path).setup("fit")


def test_a_label_of_another_file_that_training_lacks_is_still_refused(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.jsonl", ["a", "b"] * 60)
    test_path = labelled(tmp_path / "test.jsonl", ["a", "b", "c"])
    with pytest.raises(DataError, match=r"test\.jsonl:3: label 'c' is none of the 2"):
        TextClassificationData(path, test_path=test_path).setup("fit")


def test_spellings_of_a_label_are_one_label_or_are_reported(tmp_path: Path) -> None:
    labels = ["caf\u00e9", "cafe\u0301", " caf\u00e9 ", "bar", "Bar"] * 40
    data = prepared(TextClassificationData(labelled(tmp_path / "a.jsonl", labels)))
    assert data.facts()["labels"] == ["Bar", "bar", "caf\u00e9"]
    report = " ".join(data.report().render().split())
    assert "80 rows of" in report
    assert "1 label is spelt in several ways ('Bar', 'bar')" in report


def test_a_model_keeps_the_spelling_of_its_labels(tmp_path: Path) -> None:
    data = TextClassificationData(labelled(tmp_path / "a.jsonl", [" a", "b"] * 60))
    data.adopt({"vocabulary": ["r"], "labels": [" a", "b"], "label_counts": [1, 1], "has_many_labels": False})
    data.setup("fit")
    assert set(data.rows("train").values("label").tolist()) == {0, 1}


def test_spellings_of_a_type_are_one_type(tmp_path: Path) -> None:
    tags = ["B-caf\u00e9", "B-cafe\u0301", " B-caf\u00e9"] * 60
    rows = [{"tokens": [f"w{number}", "x"], "tags": [tag, "O"]} for number, tag in enumerate(tags)]
    data = prepared(EntityData(json_lines(tmp_path / "a.jsonl", rows), units="words"))
    assert data.facts()["labels"] == ["caf\u00e9"]
    assert "not in Unicode normal form C" in " ".join(data.report().render().split())


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "jax"])
def test_the_format_of_a_saved_data_set_is_ignored(tmp_path: Path, kind: str) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    saved = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "all"))
    for folder in (tmp_path / "one", tmp_path / "all" / "train"):
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "_format_type": kind, "_format_columns": ["label"]}))
    for name in ("one", "all"):
        rows = list(read_rows(f"hub:{tmp_path / name}@train", columns=["text", "label"]))
        assert [row.values for row in rows] == [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}]


def instructions(path: str, **fields: Any) -> InstructionData:
    return InstructionData(path, tokenizer="bytes", split=THIRDS, **fields)


@pytest.mark.parametrize(
    "roles",
    [
        ["assistant", "user", "assistant"],
        ["system", "assistant", "user", "assistant"],
        ["user", "user", "assistant", "assistant"],
        ["Assistant"],
        [" GPT", "Human", "gpt"],
    ],
)
def test_chats_of_any_order_are_learned(tmp_path: Path, roles: list[str]) -> None:
    rows = [{"chat": [{"role": role, "content": f"{number}"} for role in roles]} for number in range(60)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    data = prepared(instructions(path, messages_column="chat", chat_template=PLAIN_TEMPLATE))
    row = data.rows("train").row(0)
    assert np.any(row["is_target"])
    assert row["target"]


def test_the_greeting_is_learned_without_its_header() -> None:
    turns = turns_of([{"role": "assistant", "content": "s"}, {"role": "user", "content": "q"}] * 2 + [
        {"role": "assistant", "content": "r"}
    ], "a:1")  # fmt: skip

    def render(messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        assert messages, "transformers refuses this"
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>" * add_generation_prompt

    segments = chat_segments(turns, render, "a:1")
    assert [segment.text for segment in segments if segment.is_target] == ["s", "s", "r"]
    assert segments[0].text == "<assistant>"


def test_what_a_chat_template_raises_names_the_row(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{"c": [{"role": "assistant", "content": f"{n}"}]} for n in range(60)])
    data = instructions(path, messages_column="c", chat_template="{{ messages[0].content + 1 }}")
    with pytest.raises(DataError, match=r"a\.jsonl:\d+: the chat template refuses this chat"):
        data.setup("fit")


def test_a_context_may_be_absent_but_not_from_all_rows(tmp_path: Path) -> None:
    row = {"prompt": "a", "response": "b"}
    contexts: list[Any] = [{}, {"input": None}, {"input": ""}, {"input": math.nan}, {"input": "x"}, {"input": 3}]
    path = json_lines(tmp_path / "a.jsonl", [{**row, **contexts[n % 6], "prompt": f"a{n}"} for n in range(60)])
    data = prepared(instructions(path, context_column="input", template="{prompt}:{response}"))
    assert len(data.rows("train"))
    other = instructions(path, context_column="inptu", template="{prompt}:{response}")
    with pytest.raises(DataError, match=r"no row has the column 'inptu'\. Correct data\.context_column"):
        other.setup("fit")


def sentences(first: int, *, layout: str = "{number} {token} {tag}\n") -> str:
    words = [[(f"Ada{n}", "B-PER"), *[("went", "O")] * (n % 3 + 1)] for n in range(50)]
    return "\n".join(
        "".join(layout.format(number=number, token=token, tag=tag) for number, (token, tag) in enumerate(own, first))
        for own in words
    )


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_tokens_are_not_taken_for_tokens(tmp_path: Path, first: int) -> None:
    (tmp_path / "a.conll").write_text(sentences(first))
    with pytest.raises(Refusal, match=r"their own numbers .* Set data\.tagged_lines\.token_column"):
        EntityData(str(tmp_path / "a.conll"), units="words").setup("fit")


@pytest.mark.parametrize(
    ("make", "fields", "name", "content", "message"),
    [
        (
            PinyinData,
            {},
            "a.txt",
            "".join(f"The room {n}.\n" for n in range(50)),
            "no examples in 50 rows, and no sent",
        ),
        (PinyinData, {}, "a.txt", "我\n" * 50, r"all have the same input, '我', and equal inputs are in one split"),
        (
            TextClassificationData,
            {},
            "a.csv",
            "text,label\n" + "a,x\nb,y\n" * 30,
            "only 2 distinct inputs, such as 'a'",
        ),
        (EntityData, {"units": "words"}, "a.conll", "".join(f"Ada{n} O\n\n" for n in range(50)), "every tag is O"),
        (EntityData, {}, "a.csv", "tokens,tags\n[],[]\n", r"These are tagged tokens: EntityData .* JSON Lines"),
        (TextClassificationData, {}, "a.csv", "tokens,ner_tags\n[],[]\n", "These are tagged tokens: EntityData"),
        (TextClassificationData, {}, "a.jsonl", '{"messages": []}\n', r"chats: .* data\.messages_column=messages"),
    ],
)
def test_what_all_rows_have_in_common_is_said(
    tmp_path: Path, make: type[Any], fields: dict[str, Any], name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    split = SplitConfig(validation_fraction=0.1, test_fraction=0.1, drop_repeats=make is PinyinData)
    with pytest.raises(DataError, match=message):
        make(path=str(tmp_path / name), split=split, **fields).setup("fit")


@pytest.mark.parametrize(
    ("typed", "syllables"),
    [
        ("nu\u0308 n\u00fc nu: NV \uff2e\uff35\uff1a n\u01da nu\u030c\u0308 nv3", ["nv"] * 8),
        ("lue l\u00fce lu\u0308e lu:e lve l\u00fc\u00e8 lue4", ["lve"] * 7),
        ("nue N\u00dcE", ["nve"] * 2),
        ("ju j\u00fc jv ju:1 yu\u0308", ["ju"] * 4 + ["yu"]),
        ("w\u01d2 wo3 wo\u030c W\u014f wo\u00b3", ["wo"] * 5),
        ("xi'an X\u012b\u2019\u0101n", ["xi", "an"] * 2),
        ("zhu\u0101ng er2 \u0113 n2", ["zhuang", "er", "e", "n"]),
        ("\uff0c \u3002 1 mp3 don't ' 5g \u00ea", ["\uff0c", "\u3002", "1", "mp3", "don't", "'", "5g", "\u00ea"]),
    ],
)
def test_every_spelling_of_a_syllable_is_that_of_keyboards(typed: str, syllables: list[str]) -> None:
    assert normalised(typed) == syllables


def test_a_text_that_is_far_too_long_is_refused_without_being_quoted(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.jsonl", ["x"], "y" * (MOST_CHARACTERS + 1))
    with pytest.raises(DataError, match=r"a text of 16,777,217 characters; at most 16,777,216") as caught:
        TextClassificationData(path).setup("fit")
    assert len(str(caught.value)) < 400
    assert len(first_names(["z" * 10**6])) == 80
