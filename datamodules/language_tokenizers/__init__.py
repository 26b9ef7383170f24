"""Reversible tokenizers for models that write text."""

from datamodules.language_tokenizers.learning import (
    characters_tokenizer,
    count_characters,
    load_language_tokenizer,
    needs_texts,
)
from datamodules.language_tokenizers.numbering import CountedTokens, LanguageTokenizer

__all__ = [
    "CountedTokens",
    "LanguageTokenizer",
    "characters_tokenizer",
    "count_characters",
    "load_language_tokenizer",
    "needs_texts",
]
