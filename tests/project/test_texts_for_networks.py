"""What a pretrained network cannot read is refused before a run exists, and what it can is trained."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import Experiment, build
from tests.support.pretrained import write_tiny_bert
from tests.support.running import FOUR_STEPS, QUIET

WORDS = ["warm", "cold", "room", "fine"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data of three tasks, a BERT and a GPT-2 of 16 positions each, and another tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [f"{WORDS[i % 4]} {WORDS[i // 4 % 4]} {i}" for i in range(60)]
    long = [f"{text} {' '.join(WORDS * 8)}" for text in texts]
    for name, own in {"short": texts, "long": long}.items():
        rows = [{"text": text, "pair": text, "label": "ab"[i % 2]} for i, text in enumerate(own)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        tagged = [text.replace(" ", " O\n") + " B-NUM\n\n" for text in own]
        (folder / f"{name}.conll").write_text("".join(tagged))
        (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in own))
    write_tiny_bert(folder / "bert", texts)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    size = len(AutoTokenizer.from_pretrained(folder / "bert"))
    BertModel(BertConfig(vocab_size=size, max_position_embeddings=16, **sizes)).save_pretrained(folder / "bert")
    write_tiny_bert(folder / "other", [text[::-1] for text in texts])
    write_gpt(folder / "gpt", folder / "bert")
    write_gpt(folder / "other_gpt", folder / "other")
    return folder


def write_gpt(folder: Path, like: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(like)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]")
    config = GPT2Config(vocab_size=len(fast), n_embd=16, n_layer=1, n_head=2, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def built(place: Path, data: str, *arguments: str) -> Experiment:
    return build(parse([arguments[0], f"--data.path={place}/{data}", *arguments[1:], *FOUR_STEPS, *QUIET]), "fit")


def texts(place: Path, data: str, *arguments: str) -> Experiment:
    encoder = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={place}/bert"]
    return built(place, data, "--config=text_classification", *encoder, *arguments)


def entities(place: Path, data: str, *arguments: str) -> Experiment:
    encoder = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={place}/bert", "--data.units=words"]
    return built(place, data, "--config=ner", *encoder, *arguments)


def language(place: Path, data: str, *arguments: str) -> Experiment:
    return built(place, data, "--config=gpt_finetune", f"--model.decoder.checkpoint={place}/gpt", *arguments)


Task = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (texts, ["--data.tokenizer=bert", "--data.max_length=32"]),
        (texts, ["--data.tokenizer=bert"]),
        (texts, ["--data.tokenizer=bert", "--data.pair_column=pair"]),
        (texts, ["--data.tokenizer=bert", "--data.max_length=17", "--data.truncation=windows"]),
        (texts, ["--data.tokenizer=bert", "--model.encoder.lora.rank=2"]),
        (entities, ["--data.tokenizer=bert", "--data.max_length=17"]),
        (entities, ["--data.tokenizer=bert"]),
        (language, ["--data.tokenizer=gpt", "--data.blocks.length=17", "--data.blocks.method=separate"]),
    ],
)
def test_texts_longer_than_the_positions_are_refused(place: Path, task: Task, arguments: Sequence[str]) -> None:
    data = {texts: "long.jsonl", entities: "long.conll", language: "long.txt"}[task]
    with pytest.raises(ConfigError, match=r"a text of \d+ tokens was given to a network that reads 16 .*data\."):
        task(place, data, *at(place, arguments))


@pytest.mark.parametrize(
    ("task", "data", "arguments"),
    [
        (texts, "long.jsonl", ["--data.tokenizer=bert", "--data.max_length=16"]),
        (texts, "long.jsonl", ["--data.tokenizer=bert", "--data.max_length=16", "--data.truncation=windows"]),
        (texts, "short.jsonl", ["--data.tokenizer=bert", "--data.max_length=512"]),
        (texts, "short.jsonl", ["--data.tokenizer=bert", "--data.pair_column=pair"]),
        (entities, "long.conll", ["--data.tokenizer=bert", "--data.max_length=16"]),
        (language, "short.txt", ["--data.tokenizer=gpt", "--data.blocks.length=64", "--data.blocks.method=packed"]),
    ],
)
def test_texts_that_fit_are_not_refused(place: Path, task: Task, data: str, arguments: Sequence[str]) -> None:
    task(place, data, *at(place, arguments))


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (texts, []),
        (texts, ["--data.tokenizer=words"]),
        (texts, ["--data.tokenizer=subwords"]),
        (texts, ["--data.min_count=1000"]),
        (texts, ["--data.tokenizer=other"]),
        (texts, ["--data.tokenizer=other", "--model.encoder.lora.rank=2"]),
        (entities, []),
        (entities, ["--data.tokenizer=other"]),
        (language, ["--data.tokenizer=other_gpt"]),
        (language, ["--data.tokenizer=characters"]),
    ],
)
def test_a_tokenizer_that_is_not_the_network_s_is_refused(place: Path, task: Task, arguments: Sequence[str]) -> None:
    data = {texts: "short.jsonl", entities: "short.conll", language: "short.txt"}[task]
    with pytest.raises(ConfigError, match=r"tokenizer in data\.tokenizer"):
        task(place, data, *at(place, arguments))


def test_a_language_model_whose_tokenizer_got_a_token_is_trained(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "gpt", tmp_path / "gpt")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt")
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path / "gpt")
    arguments = [f"--data.tokenizer={tmp_path}/gpt", f"--model.decoder.checkpoint={tmp_path}/gpt"]
    experiment = language(place, "short.txt", *arguments, "--data.blocks.length=8")
    assert experiment.model.get_submodule("decoder.model.transformer.wte").num_embeddings == size + 1
    with pytest.raises(ConfigError, match="where tokens were added to it, save tokenizer and network in one folder"):
        language(place, "short.txt", arguments[0], "--data.blocks.length=8")


def at(place: Path, arguments: Sequence[str]) -> list[str]:
    """Name a tokenizer of the folder by its path."""
    own = ("bert", "gpt", "other", "other_gpt")
    paths = {f"--data.tokenizer={name}": f"--data.tokenizer={place}/{name}" for name in own}
    return [paths.get(argument, argument) for argument in arguments]
