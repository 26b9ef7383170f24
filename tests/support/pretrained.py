"""A pretrained encoder as small as it can be, in a folder as transformers writes it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast


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
