"""Of a dialogue exactly what the assistant says is learned, whatever writes and numbers it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lightrail.datamodules.base import SplitConfig
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.batches.blocks import NO_TARGET, BlockConfig
from lightrail.datamodules.instructions import InstructionData
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONLY_LAST = "{{ messages[-1]['role'] }}: {{ messages[-1]['content'] }}"
REFUSES = "{{ raise_exception('no system turns') }}"

QUESTIONS: list[dict[str, Any]] = [
    {"instruction": "Add 1 and 2.", "input": "", "output": "3"},
    {"instruction": "Name the capital.", "input": "France", "output": "Paris, of course!"},
    {"instruction": "说早上好", "input": None, "output": "早上好 🙂"},
    {"instruction": "Say nothing much.", "input": " ", "output": "  so\nbe it "},
]
CHATS = [
    [("user", "Hello?"), ("assistant", "Hello."), ("user", "And then?"), ("assistant", "That was all 🙂.")],
    [("system", "Be kind."), ("user", "You are wrong."), ("assistant", "I am.")],
    [("user", "早"), ("assistant", "早上好"), ("user", "Never answered")],
]
ALPACA: dict[str, Any] = {"prompt_column": "instruction", "context_column": "input", "response_column": "output"}


def json_lines(file: Path, rows: Sequence[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def questions(folder: Path) -> dict[str, Any]:
    file = json_lines(folder / "questions.jsonl", QUESTIONS)
    return {"path": file, "validation_path": file, "test_path": file, **ALPACA}


def chats(folder: Path, role: str = "role", content: str = "content") -> dict[str, Any]:
    rows = [{"messages": [{role: speaker, content: said} for speaker, said in chat]} for chat in CHATS]
    file = json_lines(folder / "chats.jsonl", rows)
    return {"path": file, "validation_path": file, "test_path": file, "messages_column": "messages"}


def tokenizer_folder(folder: Path, *, with_prefix_space: bool, chat_template: str | None = None) -> str:
    """Train a real tokenizer: byte pairs, or pieces of which the first of a text begins with a space."""
    texts = [json.dumps([QUESTIONS, CHATS], ensure_ascii=False), "Q: A: user assistant system\n"] * 3
    special = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    if with_prefix_space:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{value:02X}>" for value in range(256)]
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    alphabet = [] if with_prefix_space else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    end = "<|im_end|>" if chat_template else "</s>"
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=end, unk_token="<unk>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder / "tokenizer")
    return str(folder / "tokenizer")


def prepared(**settings: Any) -> InstructionData:
    data = InstructionData(**{"batch": BatchConfig(size=3), **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def tokenizer_of(data: InstructionData) -> LanguageTokenizer:
    return LanguageTokenizer.from_facts(data.facts()["tokenizer"])


def documents(data: InstructionData) -> list[dict[str, Any]]:
    rows = data.rows("train")
    return [dict(rows.row(number)) for number in range(len(rows))]


def learned(data: InstructionData) -> list[list[int]]:
    """The targets of each training document, in the order of the rows."""
    return [row["input_ids"][row["is_target"] > 0].tolist() for row in documents(data)]


def shown(data: InstructionData) -> list[str]:
    return [tokenizer_of(data).decode(row["input_ids"]) for row in documents(data)]


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "subwords", "byte pairs", "prefix space"])
def test_what_is_learned_spells_the_response_and_its_end(tmp_path: Path, tokenizer: str) -> None:
    if " " in tokenizer:
        tokenizer = tokenizer_folder(tmp_path, with_prefix_space=tokenizer == "prefix space")
    data = prepared(**questions(tmp_path), template="Q: {prompt}\nA: {response}", tokenizer=tokenizer)
    spelt = tokenizer_of(data)
    targets = learned(data)
    assert len(targets) == len(QUESTIONS)
    assert all(own[-1] == spelt.end_id and spelt.end_id not in own[:-1] for own in targets)
    stripped = [spelt.decode(own).strip() for own in targets]
    assert stripped == [question["output"].strip() for question in QUESTIONS]
    if "tokenizer" not in tokenizer:
        assert [spelt.decode(own) for own in targets] == [question["output"] for question in QUESTIONS]
    assert shown(data)[1] == "Q: Name the capital.\n\nFrance\nA: Paris, of course!"
    assert shown(data)[0] == "Q: Add 1 and 2.\nA: 3"  # an empty context adds no lines


def test_a_document_begins_and_ends_as_the_facts_say(tmp_path: Path) -> None:
    data = prepared(**questions(tmp_path), template="{prompt} {response}", tokenizer="bytes")
    facts, rows = data.facts()["tokenizer"], data.rows("train")
    for number in range(len(rows)):
        ids: Any = rows.row(number)["input_ids"]
        assert (ids[0], ids[-1]) == (facts["start_id"], facts["end_id"])


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
@pytest.mark.parametrize("tokenizer", ["characters", "pretrained"])
def test_of_a_chat_every_turn_of_the_assistant_is_learned(
    tmp_path: Path, tokenizer: str, keys: tuple[str, str]
) -> None:
    settings = {"tokenizer": tokenizer, "chat_template": CHAT_ML}
    if tokenizer == "pretrained":
        settings = {"tokenizer": tokenizer_folder(tmp_path, with_prefix_space=False, chat_template=CHAT_ML)}
    data = prepared(**chats(tmp_path, *keys), **settings)
    spelt = tokenizer_of(data)
    end = "" if tokenizer == "pretrained" else "<|im_end|>\n"  # a special token that ends a document; or its letters
    answers = [[said for speaker, said in chat if speaker == "assistant"] for chat in CHATS]
    found = [spelt.decode(own) for own in learned(data)]
    between = "\n" if tokenizer == "pretrained" else end
    assert found == [between.join(own) + end for own in answers]
    assert all(own[-1] == spelt.end_id for own in learned(data))
    assert not any(row["num_characters"][row["input_ids"] == spelt.end_id].any() for row in documents(data))


def test_a_chat_is_numbered_as_transformers_numbers_it(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, with_prefix_space=False, chat_template=CHAT_ML)
    data = prepared(**chats(tmp_path), tokenizer=folder)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    for number, chat in enumerate(CHATS):
        answered = chat[:-1] if chat[-1][0] == "user" else chat
        messages = [{"role": speaker, "content": said} for speaker, said in answered]
        expected = fast.apply_chat_template(messages, return_dict=True)["input_ids"]
        found: Any = data.rows("train").row(number)["input_ids"]
        assert found.tolist() == expected[: len(found)]
        assert fast.decode(expected[len(found) :]) == "\n"  # behind the end


def test_sharegpt_names_the_speakers_otherwise(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    file = json_lines(tmp_path / "chats.jsonl", [row])
    paths = {"path": file, "validation_path": file, "test_path": file}
    data = prepared(**paths, messages_column="conversations", tokenizer="bytes", chat_template=CHAT_ML)
    assert shown(data) == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"]


@pytest.mark.parametrize("method", ["packed", "separate"])
def test_training_rows_hold_the_dialogues_and_their_targets(tmp_path: Path, method: Any) -> None:
    blocks = BlockConfig(length=64, method=method)
    data = prepared(**questions(tmp_path), template="Q: {prompt}\nA: {response}", tokenizer="bytes", blocks=blocks)
    found = []
    for batch in data.train_dataloader():
        numbers = batch.get("document_ids", batch["input_ids"] * 0)
        for labels, documents in zip(batch["labels"], numbers, strict=True):
            for document in documents.unique():
                own = labels[(documents == document) & (labels != NO_TARGET)]
                found += [own.tolist()] if len(own) else []
    assert sorted(found) == sorted(learned(data))
    has_several = any("document_ids" in batch for batch in data.train_dataloader())
    assert has_several == (method == "packed")


def test_an_evaluated_row_is_a_dialogue_that_counts_the_response_alone(tmp_path: Path) -> None:
    data = prepared(**questions(tmp_path), template="Q: {prompt}\nA: {response}", tokenizer="characters")
    seen = {}
    for batch in data.test_dataloader():
        for number, row in enumerate(batch["id"]):
            seen[row] = [batch[name][number] for name in ("text", "num_characters", "num_bytes")]
    outputs = [str(question["output"]) for question in QUESTIONS]
    assert [seen[number] for number in range(4)] == [[one, len(one), len(one.encode())] for one in outputs]


def test_the_prompt_decides_the_split(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number % 40}", "response": f"answer {number}"} for number in range(120)]
    data = prepared(
        path=json_lines(tmp_path / "rows.jsonl", rows),
        template="{prompt}: {response}",
        split=SplitConfig(validation_fraction=0.3, test_fraction=0.3),
    )
    of_split = [
        {data.rows(split).row(number)["text"] for number in range(len(data.rows(split)))}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, of_split)) == 40
    assert not of_split[0] & of_split[1] | of_split[1] & of_split[2] | of_split[0] & of_split[2]


def long_rows(folder: Path) -> dict[str, Any]:
    rows = [
        {"prompt": "p", "response": "short"},
        {"prompt": "p", "response": "r" * 40},
        {"prompt": "p" * 40, "response": "never reached"},
    ]
    file = json_lines(folder / "long.jsonl", rows)
    paths = {"path": file, "validation_path": file, "test_path": file}
    return {**paths, "template": "{prompt}:{response}", "tokenizer": "bytes", "blocks": BlockConfig(length=20)}


@pytest.mark.parametrize(
    ("too_long", "kept", "note"),
    [
        (
            "cut",
            ["short", "r" * 18, ""],
            r"^2 of 3 .* longer than 21 tokens and are cut; 1 of 3 .* omitted \(no token of a response was left\)$",
        ),
        ("skip", ["short", "", ""], r"^2 of 3 dialogues are omitted \(longer than 21 tokens\)$"),
    ],
)
def test_long_dialogues_are_cut_or_left_out_and_counted(
    tmp_path: Path, too_long: Any, kept: list[str], note: str
) -> None:
    data = prepared(**long_rows(tmp_path), too_long=too_long)
    assert [tokenizer_of(data).decode(own) for own in learned(data)] == kept
    assert len(next(iter(data.test_dataloader()))["id"]) == sum(map(bool, kept))
    assert re.search(note, data.describe(data.rows("train")))
    assert ("data.blocks.length=56 would" in " ".join(data.report().render().split())) == (too_long == "cut")


def test_long_dialogues_may_be_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"long\.jsonl:2: 44 tokens, and data\.blocks\.length=20 allows 21"):
        prepared(**long_rows(tmp_path), too_long="refuse")


def test_nothing_is_cut_that_fits_exactly(tmp_path: Path) -> None:
    data = prepared(**{**long_rows(tmp_path), "blocks": BlockConfig(length=55)}, too_long="refuse")
    assert len(learned(data)[1]) == 41
    assert data.describe(data.rows("train")) == ""


def test_where_nothing_is_left_of_a_split_it_is_said(tmp_path: Path) -> None:
    data = prepared(**{**long_rows(tmp_path), "blocks": BlockConfig(length=1)}, too_long="skip")
    with pytest.raises(DataError, match=r"all 3 train dialogues are longer than data\.blocks\.length=1"):
        data.train_dataloader()


def test_texts_to_predict_are_numbered_as_the_model_learned_it(tmp_path: Path) -> None:
    trained = prepared(**questions(tmp_path), template="{prompt} {response}", tokenizer="subwords", max_vocabulary=280)
    other = json_lines(tmp_path / "other.jsonl", [{"instruction": "zzz", "input": "", "output": "Paris"}])
    data = InstructionData(other, **ALPACA, template="{prompt} {response}", tokenizer="bytes")
    data.adopt({"tokenizer": json.loads(json.dumps(trained.facts()["tokenizer"]))})
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["text"] == ["Paris"]
    assert batch["labels"].tolist()[0][-6:] != [NO_TARGET] * 6
    assert data.dataset("predict").values("line").tolist() == [1]


def one_chat(folder: Path, messages: Any, **settings: Any) -> InstructionData:
    file = json_lines(folder / "chat.jsonl", [{"messages": messages}])
    more = {"messages_column": "messages", "tokenizer": "bytes", "chat_template": CHAT_ML, **settings}
    return prepared(path=file, validation_path=file, test_path=file, **more)


TWO_ANSWERS = [{"role": speaker, "content": said} for speaker, said in CHATS[0]]


@pytest.mark.parametrize(
    ("messages", "more", "message"),
    [
        ("Hello", {}, r"chat\.jsonl:1: the chat is 'Hello'"),
        ([{"role": "user"}], {}, r"chat\.jsonl:1, turn 1: .* is no turn"),
        ([{"role": "poet", "content": "!"}], {}, r"chat\.jsonl:1, turn 1: unknown role 'poet'"),
        ([{"role": "user", "content": "!"}], {}, r"chat\.jsonl:1: no turn of the assistant"),
        (TWO_ANSWERS, {"chat_template": REFUSES}, r"chat\.jsonl:1: .* refuses this chat: no system turns"),
        (TWO_ANSWERS, {"chat_template": ONLY_LAST}, r"chat\.jsonl:1: .* before turn 2 in one way"),
    ],
)
def test_a_chat_that_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, messages: Any, more: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        one_chat(tmp_path, messages, **more)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{prompt}"}, r"data\.template is '\{prompt\}'"),
        ({"template": "{response} {prompt}"}, "after it"),
        ({}, "data.tokenizer=characters has no chat template"),
        ({"template": "{prompt} {response}", "messages_column": "messages"}, "Omit one of them"),
        ({"chat_template": CHAT_ML, "blocks": BlockConfig(method="sliding")}, "sliding would mix dialogues"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InstructionData("any.jsonl", **settings)


def test_a_missing_column_is_refused_by_the_setting_that_names_it(tmp_path: Path) -> None:
    file = json_lines(tmp_path / "rows.jsonl", [{"question": "?", "response": "!"}])
    with pytest.raises(DataError, match=r"no column 'prompt'.*Set data\.prompt_column"):
        prepared(path=file, template="{prompt} {response}")
