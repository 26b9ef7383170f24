"""The entity tagger keeps the contract with every head, from scratch and with a pretrained encoder."""

from pathlib import Path

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import Contract, NetworkContract, TaskContract
from tests.support.pretrained import write_tiny_bert
from tests.support.tasks import entities
from tests.support.tasks.entities import TEXTS, TINY, write_entities


class FromScratch(Contract):
    __test__ = False

    def without_dropout(self) -> list[str]:
        return [*super().without_dropout(), "--model.dropout=0", "--model.token_dropout=0"]


class TestCrf(FromScratch, TaskContract):
    __test__ = True

    def settings(self, folder: Path) -> list[str]:
        return entities.settings(folder)


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
