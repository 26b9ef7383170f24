"""A tiny language model, texts for it, and a pretrained one."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

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


def settings(folder: Path) -> list[str]:
    """Of documents packed into blocks."""
    blocks = ["--data.blocks.method=packed", "--data.blocks.length=10", "--data.reading.empty=keep"]
    return [*write_texts(folder, PAIRS, *blocks), *OURS, "--model.decoder.dropout=0.1"]


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
