"""Encoder-decoders as small as they can be, in folders as transformers writes them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
WIDTHS = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}


def architecture(name: str, size: int) -> PretrainedConfig:
    ends: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1}
    if name == "t5":
        sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
        return T5Config(vocab_size=size, **sizes, decoder_start_token_id=0, **ends)
    if name == "marian":  # begins with its padding, and scores it like any other token
        return MarianConfig(
            vocab_size=size, **LAYERS, **WIDTHS, decoder_start_token_id=0, forced_eos_token_id=1, **ends
        )
    start = {"bos_token_id": 3, "decoder_start_token_id": 1}
    return BartConfig(vocab_size=size, **LAYERS, **WIDTHS, **start, **ends)


def write_seq2seq(folder: Path, name: str, texts: list[str], scale: float = 1.0) -> Path:
    """Write a tiny `t5`, `marian` or `bart` with a tokenizer of the texts' characters.

    Args:
        scale: factor of its weights; a large one makes the likeliest token so by a distance.

    Returns: the folder.
    """
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    characters = sorted({character for text in texts for character in text})
    vocabulary = {token: number for number, token in enumerate([*special, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    single = "<s> $A </s>" if name == "bart" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, number) for number, token in enumerate(special)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(architecture(name, len(fast)))
    for weight in model.parameters():
        weight.data *= scale
    if name == "bart":
        model.generation_config.forced_bos_token_id = 3
    model.save_pretrained(folder)
    return folder
