"""The masked language model keeps the contract: from scratch, pretrained, and with next sentences."""

from pathlib import Path
from typing import Any

import pytest

from lightrail.testing.contract import Contract, NetworkContract, TaskContract
from tests.support.tasks import masked_lm
from tests.support.tasks.masked_lm import PAIRS, write_bert, write_texts


class MaskedContract(Contract):
    def answers(self, columns: dict[str, Any]) -> list[Any]:
        return list(columns["num_correct"])

    def is_learned(self, columns: dict[str, Any]) -> bool:
        return bool(columns["num_correct"] == columns["num_targets"])

    def without_dropout(self) -> list[str]:
        return masked_lm.WITHOUT_DROPOUT


class TestFromScratch(MaskedContract, TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return masked_lm.settings(folder)


class TestPretrained(MaskedContract, NetworkContract):
    @pytest.fixture(autouse=True)
    def _bert(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.folder = write_bert(tmp_path_factory.getbasetemp() / "masked-bert", "abcdefghijklmnopqrstuvwxyz")

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={self.folder}"]
        return [*write_texts(folder, " "), *network, f"--data.tokenizer={self.folder}"]

    def is_learned(self, columns: dict[str, Any]) -> bool:
        """In eighty steps, each with other masks, many places of a text are never masked."""
        return bool(sum(columns["num_correct"]) > 0.7 * sum(columns["num_targets"]))


class TestNextSentences(MaskedContract, NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        """Which part follows is another question in each epoch: what is to be learned are tokens."""
        weight = "--model.next_sentence_weight=1"
        return [*masked_lm.settings(folder, PAIRS), "--data.next_sentence=true", weight]

    def is_learned(self, columns: dict[str, Any]) -> bool:
        return bool(sum(columns["num_correct"]) > 0.5 * sum(columns["num_targets"]))
