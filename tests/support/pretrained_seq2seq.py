"""Encoder-decoders as small as they can be, in folders as transformers writes them."""

import json
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    MarianTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from lightrail.project.basics.logs import without_warning
from lightrail.project.basics.tokens.tokenizing import HINT_OF_MARIAN

LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
WIDTHS = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}


def architecture(name: str, size: int) -> PretrainedConfig:
    ends: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1}
    if name == "t5":
        sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
        return T5Config(vocab_size=size, **sizes, decoder_start_token_id=0, **ends)
    if name in ("marian", "opus"):  # begins with its padding, and scores it like any other token
        return MarianConfig(
            vocab_size=size, **LAYERS, **WIDTHS, decoder_start_token_id=0, forced_eos_token_id=1, **ends
        )
    start = {"bos_token_id": 3, "decoder_start_token_id": 1}
    return BartConfig(vocab_size=size, **LAYERS, **WIDTHS, **start, **ends)


def write_opus(folder: Path, texts: list[str]) -> MarianTokenizer:
    """Write the tokenizer of a Marian model as its authors publish them: two sentencepiece models, one vocabulary.

    The model of the sources reads words, that of the targets characters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[str] = []
    for side, kind in (("source", "unigram"), ("target", "char")):
        SentencePieceTrainer.train(
            sentence_iterator=iter([*texts, *({character for text in texts for character in text} - {" "})]),
            model_prefix=str(folder / side),
            model_type=kind,
            vocab_size=24 if kind == "unigram" else 100,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
            num_threads=1,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        model = SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        pieces += [model.id_to_piece(number) for number in range(3, len(model))]
    names = ["<pad>", "</s>", "<unk>", ">>deu<<", *dict.fromkeys(reversed(pieces))]  # other ids than sentencepiece's
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}), "utf-8")
    with without_warning(HINT_OF_MARIAN):
        tokenizer = MarianTokenizer(*(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")))
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_seq2seq(folder: Path, name: str, texts: list[str], scale: float = 1.0) -> Path:
    """Write a tiny `t5`, `marian`, `opus` (a Marian with its own tokenizer) or `bart`, with a tokenizer of the texts.

    Args:
        scale: factor of its weights; a large one makes the likeliest token so by a distance.

    Returns: the folder.
    """
    fast = write_opus(folder, texts) if name == "opus" else characters_of(texts, has_start=name == "bart")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(architecture(name, len(fast)))
    for weight in model.parameters():
        weight.data *= scale
    if name == "bart":
        model.generation_config.forced_bos_token_id = 3
    model.save_pretrained(folder)
    return folder


def characters_of(texts: list[str], *, has_start: bool) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the texts' characters."""
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    characters = sorted({character for text in texts for character in text})
    vocabulary = {token: number for number, token in enumerate([*special, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    single = "<s> $A </s>" if has_start else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, number) for number, token in enumerate(special)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
