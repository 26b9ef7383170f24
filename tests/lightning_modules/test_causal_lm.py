"""Language models keep the contract: packed, sliding, separate; from scratch or with adapters; of dialogues."""

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.contract import Contract, NetworkContract, TaskContract, without_gradient

TEXTS = {
    "train": [
        "山有木兮木有枝",
        "心悦君兮君不知",
        "ab",
        "今夕何夕兮搴舟中流",
        "得与王子同舟",
        "蒙羞被好兮不訾诟耻",
        "x",
        "cab abc",
    ],
    "validation": ["山有枝", "abc", "今夕兮", "心不知", "王子"],
    "test": ["山", "有木兮", "abc cab ab", "君不知兮", "何夕", 7 * "中流", "得王子", "ca", "羞", "木有木有", "舟"],
}
"""Eight to learn from, each with a beginning of its own: what cannot be learned is which of them it is."""
PAIRS = [
    "山有木兮木有",
    "心悦君兮君不",
    "今夕何夕兮中",
    "得与王子同舟",
    "蒙羞被好兮",
    "cab a",
    "duck ",
    "egg.",
    "ab",
    "xy",
]
PAIRS += ["z?", "木", "舟", "q", "", ""]
"""Sixteen that take eight blocks of ten positions."""
OURS = ["--model.decoder.width=48", "--model.decoder.depth=1", "--model.decoder.num_heads=2"]


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


def write_texts(folder: Path, train: Sequence[str], *more: str) -> list[str]:
    for split, texts in {**TEXTS, "train": train}.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [
        "--model=CausalLM",
        "--data=CausalLMData",
        f"--data.path={folder}/train.jsonl",
        f"--data.validation_path={folder}/validation.jsonl",
        f"--data.test_path={folder}/test.jsonl",
        "--data.encoding_processes=1",
        *more,
    ]


class TestCharacters(LanguageContract, NetworkContract):
    """A document is a row; one of the test documents is cut, and its second piece has context."""

    def settings(self, folder: Path) -> list[str]:
        blocks = ["--data.blocks.method=separate", "--data.blocks.length=12", "--data.blocks.overlap=3"]
        return [*write_texts(folder, TEXTS["train"], *blocks), *OURS, "--model.decoder.dropout=0.1"]


class TestPackedCharacters(LanguageContract, TaskContract):
    nats_of_the_choice = 3 * math.log(16)

    def settings(self, folder: Path) -> list[str]:
        blocks = ["--data.blocks.method=packed", "--data.blocks.length=10", "--data.reading.empty=keep"]
        return [*write_texts(folder, PAIRS, *blocks), *OURS, "--model.decoder.dropout=0.1"]


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


def write_gpt2(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS["train"], trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": tokenizer.get_vocab_size()}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.01)
    config = GPT2Config(**size, **dropout, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # adapters change neither table: these must tell the tokens apart
        model.transformer.wte.weight.normal_(std=0.5)
        model.lm_head.weight.normal_(std=0.5)
    model.save_pretrained(folder)


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
