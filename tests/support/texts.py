"""Texts as files, a tokenizer of word pieces, and data that has read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lightrail.datamodules.base import DataModule
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

Data = TypeVar("Data", bound=DataModule)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_word_pieces(folder: Path, *, texts: list[str] | None = None, has_frame: bool = True) -> str:
    """A real word-piece tokenizer, as transformers writes it; `has_frame`: texts stand between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(texts or ["low lower lowest", "new newer newest"], trainer)
    if has_frame:
        frame = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)


def write_tables(folder: Path, **tables: list[tuple[str, str]]) -> dict[str, Any]:
    """Write train, validation and test; those not given are one known row."""
    paths: dict[str, Any] = {}
    for name, setting in (("train", "path"), ("validation", "validation_path"), ("test", "test_path")):
        rows = tables.get(name, [("film", "pos")])
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), "utf-8")
        paths[setting] = str(file)
    return paths


def lines(folder: Path, name: str, *texts: str) -> str:
    file = folder / name
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(file)


def three_files(folder: Path, train: Sequence[str], validation: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    return {
        "path": lines(folder, "train.txt", *train),
        "validation_path": lines(folder, "validation.txt", *validation),
        "test_path": lines(folder, "test.txt", *test),
    }


def ready(data: Data) -> Data:
    """Have data read its files, as a training does."""
    data.prepare_data()
    data.setup("fit")
    return data


SENTENCES = [f"Sentence {number}: {'word ' * (number % 7)}北京 {number * 7919 % 1000}." for number in range(300)]


def spelled(data: DataModule, split: Any) -> list[str]:
    """Each row as text; a bar begins it, and ends it, where the tokenizer says so."""
    tokenizer = LanguageTokenizer.from_facts(data.facts()["tokenizer"])
    rows = data.rows(split)
    ids = [np.asarray(rows.row(number)["input_ids"]) for number in range(len(rows))]
    return [
        "|" * bool(own[0] == tokenizer.start_id) + tokenizer.decode(own) + "|" * bool(own[-1] == tokenizer.end_id)
        for own in ids
    ]
