"""Texts to token numbers: characters, words, or a Hugging Face tokenizer."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

from project.errors import ConfigError

PAD, UNKNOWN = 0, 1
FIRST = 2
"""Number of a vocabulary's first token."""
_WORDS = re.compile(r"\w+|[^\w\s]")


class Tokenizer(ABC):
    """Splits and numbers texts."""

    needs_vocabulary: bool
    """Whether tokens are numbered by a vocabulary that is learned from the training split."""
    pad_id: int
    digest: str
    """Changes when texts would be tokenised differently."""

    @abstractmethod
    def split(self, text: str) -> list[str]: ...

    @abstractmethod
    def encode(self, text: str, vocabulary: list[str]) -> list[int]:
        """Number all tokens of a text; at least one."""

    @abstractmethod
    def cut(self, ids: list[int], max_length: int) -> list[int]:
        """Keep the first `max_length` tokens, and the sign that ends a text where there is one."""


class PatternTokenizer(Tokenizer):
    """Every match of a pattern is a token."""

    needs_vocabulary = True
    pad_id = PAD

    def __init__(self, pattern: re.Pattern[str], *, lower_case: bool) -> None:
        self.pattern, self.lower_case = pattern, lower_case
        self.digest = pattern.pattern
        self._vocabulary: list[str] = []
        self._numbers: dict[str, int] = {}

    def split(self, text: str) -> list[str]:
        return self.pattern.findall(text.lower() if self.lower_case else text)

    def encode(self, text: str, vocabulary: list[str]) -> list[int]:
        if self._vocabulary is not vocabulary:
            self._vocabulary = vocabulary
            self._numbers = {token: number for number, token in enumerate(vocabulary, start=FIRST)}
        return [self._numbers.get(token, UNKNOWN) for token in self.split(text)] or [UNKNOWN]

    def cut(self, ids: list[int], max_length: int) -> list[int]:
        return ids[:max_length]


class PretrainedTokenizer(Tokenizer):
    """A tokenizer of the Hugging Face hub, or of a folder."""

    needs_vocabulary = False

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer  # here: characters and words should not wait for it

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"data.tokenizer: {name!r} is neither characters nor words nor a tokenizer that can be loaded: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.pad_id = self.tokenizer.pad_token_id or 0
        self._unknown_id = self.pad_id if self.tokenizer.unk_token_id is None else self.tokenizer.unk_token_id
        content = self.tokenizer.backend_tokenizer.to_str()
        self.digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def split(self, text: str) -> list[str]:
        tokens: list[str] = self.tokenizer.tokenize(text)
        return tokens

    def encode(self, text: str, vocabulary: list[str]) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return ids or [self._unknown_id]  # of invisible signs some tokenizers leave nothing

    def cut(self, ids: list[int], max_length: int) -> list[int]:
        if len(ids) <= max_length:
            return ids
        last = ids[-1:] if ids[-1] in self.tokenizer.all_special_ids else []
        return ids[: max_length - len(last)] + last


def load_tokenizer(name: str, *, lower_case: bool) -> Tokenizer:
    """Give the tokenizer that `characters`, `words`, a hub name or a folder stands for."""
    patterns = {"characters": re.compile(r"\S"), "words": _WORDS}
    if name in patterns:
        return PatternTokenizer(patterns[name], lower_case=lower_case)
    return PretrainedTokenizer(name)


def vocabulary_of(counts: Counter[str], most: int, min_count: int) -> list[str]:
    """List the most frequent tokens, ties in the order of their characters."""
    frequent = sorted(
        (token for token in counts if counts[token] >= min_count), key=lambda token: (-counts[token], token)
    )
    return frequent[:most]
