"""A tiny masked language model, and texts for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

TEXTS = {
    "train": ["aaaa", "bbbbb", "cccccc", "ddddddd", "eeeeeeee", "fffff", "gggggg", "hhhhhhhhhhhhhhh"],
    "validation": ["aaab", "bbb", "ccc", "dddde", "efff"],
    "test": ["aaa", "bbbbbb", "cccc", "dddddddd", "eeeee", "fffffff", "gggggggggg", "hab", "abcdefgh", "aabb", "hhhh"],
}
PAIRS = {split: [f"{text}。{text}。" for text in texts] for split, texts in TEXTS.items()}
"""Each of two sentences."""
SIZES = ["width=16", "depth=1", "num_heads=2"]
WITHOUT_DROPOUT = ["--model.encoder.dropout=0"]


def write_texts(folder: Path, separator: str = "", texts: Mapping[str, Sequence[str]] = TEXTS) -> list[str]:
    for split, own in texts.items():
        (folder / f"{split}.txt").write_text("".join(f"{separator.join(text)}\n" for text in own), encoding="utf-8")
    return [
        "--model=MaskedLM",
        "--data=MaskedLMData",
        f"--data.path={folder}/train.txt",
        f"--data.validation_path={folder}/validation.txt",
        f"--data.test_path={folder}/test.txt",
    ]


def settings(folder: Path, texts: Mapping[str, Sequence[str]] = TEXTS) -> list[str]:
    return [*write_texts(folder, texts=texts), *(f"--model.encoder.{size}" for size in SIZES), "--data.min_count=1"]


def write_bert(folder: Path, tokens: Sequence[str]) -> Path:
    """Write a real two-layer BERT for masked tokens, with a tokenizer of words, unless they are there."""
    if folder.exists():
        return folder
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    numbers = {token: number for number, token in enumerate([*special, *dict.fromkeys(tokens)])}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, special, strict=True)),
    )
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)  # else its weights, and what can be learned on them, hang on the tests before
    BertForMaskedLM(BertConfig(vocab_size=len(fast), initializer_range=0.1, **sizes)).save_pretrained(folder)
    return folder
