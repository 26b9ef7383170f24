"""Language models keep the contract: packed, sliding, separate; from scratch or with adapters; of dialogues."""

import json
import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightrail.testing.contract import Contract, NetworkContract, TaskContract, without_gradient
from tests.support.tasks import causal_lm
from tests.support.tasks.causal_lm import OURS, TEXTS, write_gpt2, write_texts


class LanguageContract(Contract):
    """Eight rows to learn from."""

    nats_of_the_choice = math.log(8)
    """What a row costs at least: to say which document it is."""

    @abstractmethod
    def settings(self, folder: Path) -> list[str]: ...

    def answers(self, columns: dict[str, Any]) -> list[Any]:
        return list(columns["num_correct"])

    def is_learned(self, columns: dict[str, Any]) -> bool:
        nats = [mean * count for mean, count in zip(columns["loss"], columns["num_targets"], strict=True)]
        return bool(max(nats) < self.nats_of_the_choice + 2)

    def without_dropout(self) -> list[str]:
        return ["--model.decoder.dropout=0"]


class TestCharacters(LanguageContract, NetworkContract):
    """A document is a row; one of the test documents is cut, and its second piece has context."""

    def settings(self, folder: Path) -> list[str]:
        blocks = ["--data.blocks.method=separate", "--data.blocks.length=12", "--data.blocks.overlap=3"]
        return [*write_texts(folder, TEXTS["train"], *blocks), *OURS, "--model.decoder.dropout=0.1"]


class TestPackedCharacters(LanguageContract, TaskContract):
    nats_of_the_choice = 3 * math.log(16)

    def settings(self, folder: Path) -> list[str]:
        return causal_lm.settings(folder)


class TestSlidingBytes(LanguageContract, NetworkContract):
    """Of the textbook's decoder; a row begins anywhere in the text: nothing but its beginning is to be chosen."""

    def settings(self, folder: Path) -> list[str]:
        plain = ["--model.decoder=PlainDecoderConfig", *OURS, "--model.decoder.max_length=64"]
        data = ["--data.tokenizer=bytes", "--data.blocks.method=sliding", "--data.blocks.length=18"]
        return [*write_texts(folder, TEXTS["train"], *data), *plain, "--model.decoder.dropout=0.1"]


class TestAdapters(LanguageContract, NetworkContract):
    """A tiny GPT-2 with a tokenizer of its own, beside whose weights adapters are trained."""

    def settings(self, folder: Path) -> list[str]:
        if not (folder / "gpt2").exists():
            write_gpt2(folder / "gpt2")
        data = [f"--data.tokenizer={folder}/gpt2", "--data.blocks.method=separate", "--data.blocks.length=32"]
        return [
            *write_texts(folder, TEXTS["train"], *data),
            "--model.decoder=PretrainedDecoderConfig",
            f"--model.decoder.checkpoint={folder}/gpt2",
            "--model.decoder.lora.rank=32",
            "--model.decoder.lora.alpha=64",
        ]

    def test_every_trained_parameter_gets_a_gradient(self, tmp_path: Path) -> None:
        steps = ["--trainer.max_steps=3", "--data.batch.size=8"]  # half of an adapter's weights wait for the other
        assert not without_gradient(self.fit(tmp_path, *steps), self.experiment(tmp_path, *steps))


DIALOGUES = {
    "train": [
        ("a", "one"),
        ("b", "twenty-two"),
        ("c", "3"),
        ("d", "no"),
        ("ee", "e"),
        ("f", "so so so so so so"),
        ("g", "six"),
        ("h", "seven"),
    ],
    "validation": [("a", "one"), ("b", "seven"), ("c", "so"), ("d", "e"), ("e", "no")],
    "test": [(prompt, response) for prompt in "abcdefg" for response in ("one", "other")][:11],
}


class TestDialogues(LanguageContract, TaskContract):
    """Targets are very unevenly divided: only responses count, and they are of different lengths."""

    def settings(self, folder: Path) -> list[str]:
        for split, pairs in DIALOGUES.items():
            lines = [json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [
            "--model=CausalLM",
            *OURS,
            "--model.decoder.dropout=0.1",
            "--data=InstructionData",
            f"--data.path={folder}/train.jsonl",
            f"--data.validation_path={folder}/validation.jsonl",
            f"--data.test_path={folder}/test.jsonl",
            "--data.template={prompt}: {response}",
            "--data.blocks.method=separate",
            "--data.blocks.length=64",
        ]

    def is_learned(self, columns: dict[str, Any]) -> bool:
        return bool(columns["num_correct"] == columns["num_targets"])
