"""The text classifier keeps the contract: from scratch, pretrained, with many labels and long texts."""

import json
from pathlib import Path

import pytest

from lightrail.testing.contract import NetworkContract, TaskContract, first_batch
from tests.support.pretrained import write_tiny_bert
from tests.support.tasks import text_classification
from tests.support.tasks.text_classification import TEXTS, write_texts


class TestTextClassifierFromScratch(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return text_classification.settings(folder)

    def without_dropout(self) -> list[str]:
        return text_classification.WITHOUT_DROPOUT


NAMED = {"good", "bad", "fine", "dull", "it"}


def write_sets(folder: Path) -> list[str]:
    """The same texts; the labels of each are those of its words that are in `NAMED`, or none."""
    arguments = write_texts(folder)
    for split, texts in TEXTS.items():
        rows = [{"text": text, "label": sorted(NAMED & set(text.split()))} for text in texts]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [*arguments, "--data.has_many_labels=true"]


class TestTextClassifierWithManyLabelsAndWindows(NetworkContract):
    """Texts are read in windows of at most four words."""

    def settings(self, folder: Path) -> list[str]:
        sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
        network = [*(f"--model.encoder.{size}" for size in sizes), "--model.pooling=attention"]
        data = ["--data.tokenizer=words", "--data.min_count=1", "--data.max_length=4", "--data.truncation=windows"]
        return [*write_sets(folder), *network, *data]

    def without_dropout(self) -> list[str]:
        return [*super().without_dropout(), "--model.dropout=0"]

    def test_a_long_text_is_read_in_windows(self, tmp_path: Path) -> None:
        batch = first_batch(self.experiment(tmp_path, "--trainer.max_steps=1"))
        assert len(batch["input_ids"]) > len(batch["text"])
        assert batch["labels"].sum(-1).max() > 1


class TestTextClassifierWithAPretrainedEncoder(NetworkContract):
    @pytest.fixture(autouse=True)
    def _bert(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.getbasetemp() / "tiny-bert"
        self.folder = write_tiny_bert(folder, TEXTS["train"] + TEXTS["test"])

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={self.folder}"]
        return [*write_texts(folder), *network, f"--data.tokenizer={self.folder}"]

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.dropout=0"]
