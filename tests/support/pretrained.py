"""A pretrained encoder as small as it can be, in a folder as transformers writes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedEncoder


def write_tiny_bert(folder: Path, texts: Sequence[str], num_pieces: int = 200) -> Path:
    """Write a real two-layer BERT and a tokenizer with at most so many word pieces of `texts`, unless they are there.

    Returns: the folder.
    """
    if folder.exists():
        return folder
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=num_pieces, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)  # else its weights, and what can be learned on them, hang on the tests before
    BertModel(BertConfig(vocab_size=len(fast), **sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder


SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "type_vocab_size": 1},
    "distilbert": {"vocab_size": 30, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8},
    "albert": {**SIZES, "embedding_size": 4},
    "electra": {**SIZES, "embedding_size": 4},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {**SIZES, **SPECIAL, "pad_token_id": 0},
    "mpnet": SIZES,
}
ODD_POSITIONS: dict[str, dict[str, Any]] = {
    "longformer": {**SIZES, "type_vocab_size": 1, "attention_window": 16},  # pads a text to its window
    "opt": {**SIZES, "ffn_dim": 8, "word_embed_proj_dim": 8},  # its table of positions is asked for a mask
    "roformer": SIZES,  # its table of positions is asked for a shape
    "layoutlm": SIZES,  # calls its pooler unasked
}

IDS = torch.tensor([[5, 6, 7, 8, 9], [8, 9, 7, 0, 0]])
IS_TOKEN = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def written(folder: Path, name: str, **changes: Any) -> str:
    """A folder with a tiny network of the architecture, as transformers writes it."""
    torch.manual_seed(0)
    AutoModel.from_config(
        AutoConfig.for_model(name, **{**(ARCHITECTURES | ODD_POSITIONS)[name], **changes})
    ).save_pretrained(folder)
    return str(folder)


def encoded(encoder: PretrainedEncoder, segment_ids: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        states: Tensor = encoder(IDS, IS_TOKEN, segment_ids)[IS_TOKEN]
    return states
