"""The entity tagger keeps the contract with every head, from scratch and with a pretrained encoder."""

import json
from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from tests.contract import Contract, NetworkContract, TaskContract
from tests.tiny_bert import write_tiny_bert

NAMES = {"anna": "PER", "li wei": "PER", "paris": "LOC", "new york": "LOC", "acme": "ORG", "bank of paris": "ORG"}
TEXTS = {
    "train": [
        "anna",
        "paris is big",
        "li wei lives in new york",
        "acme of paris bought bank of paris and acme",
        "no name here",
        "anna li wei",
        "new york , new york",
        "bank of paris",
    ],
    "validation": ["anna in paris", "acme is big", "li wei and anna", "bank of new york", "here"],
    "test": [
        "paris",
        "li wei bought acme",
        "anna and li wei in new york",
        "bank of paris is here",
        "big name",
        "acme acme",
        "new paris",
        "no",
        "lives in paris , new york and paris",
        "anna of acme",
        "wei",
    ],
}


def entities(text: str, *, is_nested: bool) -> list[dict[str, object]]:
    """Names from left to right, the longest first; with nesting also those inside another."""
    found: list[dict[str, object]] = []
    taken: set[int] = set()
    for name in sorted(NAMES, key=len, reverse=True):
        start = text.find(name)
        while start >= 0:
            places = set(range(start, start + len(name)))
            if is_nested or not places & taken:
                taken |= places
                found.append({"start": start, "end": start + len(name), "type": NAMES[name]})
            start = text.find(name, start + len(name))
    return found


def write_entities(folder: Path, *, is_nested: bool = False) -> list[str]:
    for split, texts in TEXTS.items():
        rows = [{"text": text, "entities": entities(text, is_nested=is_nested)} for text in texts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "--model=EntityTagger",
        "--data=EntityData",
        f"--data.path={folder}/train.jsonl",
        f"--data.validation_path={folder}/validation.jsonl",
        f"--data.test_path={folder}/test.jsonl",
        "--data.units=words",
        f"--data.has_nested={str(is_nested).lower()}",
    ]


SIZES = ["width=48", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
TINY = ["--data.min_count=1", "--model.dropout=0.1", "--model.encoder=LstmConfig"]
TINY += [f"--model.encoder.{size}" for size in SIZES]


class FromScratch(Contract):
    __test__ = False

    def without_dropout(self) -> list[str]:
        return [*super().without_dropout(), "--model.dropout=0", "--model.token_dropout=0"]


class TestCrf(FromScratch, TaskContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        return [*write_entities(folder), *TINY, "--model.token_dropout=0.1"]


class TestSoftmaxInWindows(FromScratch, NetworkContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        head = ["--model.head=SoftmaxConfig", "--model.head.scheme=bio", "--data.max_length=5"]
        return [*write_entities(folder), *TINY, *head]


class TestNestedSpans(FromScratch, NetworkContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        head = ["--model.head=SpanConfig", "--model.head.max_words=3", "--model.head.width=32"]
        return [*write_entities(folder, is_nested=True), *TINY, *head]


class TestWithAPretrainedEncoder(NetworkContract):
    @pytest.fixture(autouse=True)
    def _bert(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.getbasetemp() / "tiny-bert-of-pieces"  # shorter than words
        self.folder = write_tiny_bert(folder, TEXTS["train"] + TEXTS["test"], num_pieces=60)

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={self.folder}"]
        return [*write_entities(folder), *network, f"--data.tokenizer={self.folder}"]

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.dropout=0"]


def test_tags_are_refused_for_entities_inside_each_other(tmp_path: Path) -> None:
    contract = TestNestedSpans()
    with pytest.raises(ConfigError, match=r"Choose --model\.head=SpanConfig"):
        contract.experiment(tmp_path, "--trainer.max_steps=1", "--model.head=CrfConfig")
