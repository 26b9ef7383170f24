"""Texts to token numbers: characters, words, trained subwords, or a Hugging Face tokenizer."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

from lightrail.datamodules.tokens.truncating import Frame
from lightrail.project.basics.errors import ConfigError

PAD, UNKNOWN = 0, 1
FIRST = 2
"""Number of a vocabulary's first token."""
SEPARATOR = "[SEP]"
"""Stands between the texts of a pair; no text holds it as one token, since every sign of it is one of its own."""
_WORDS = re.compile(r"\w+|[^\w\s]")
_HALF_CHARACTERS = re.compile("[\ud800-\udfff]")


class Tokenizer(ABC):
    """Splits and numbers texts."""

    needs_vocabulary: bool
    """Whether tokens are numbered by a vocabulary that is learned from the training split."""
    has_segments = False
    """Whether its encoders are told which text of a pair a token is in."""
    pad_id: int
    unknown_id: int
    digest: str
    """Changes when texts would be tokenised differently."""

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """Give what is to be counted to learn a vocabulary."""

    @abstractmethod
    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        """Give the tokens to be numbered from `FIRST`, at most so many, each seen at least `min_count` times."""

    @abstractmethod
    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        """Number all tokens of a text, without special ones; of some texts nothing is left."""

    @abstractmethod
    def frame(self, *, is_pair: bool) -> Frame:
        """Give the special tokens that go with one text, or with a pair."""


class OwnTokenizer(Tokenizer):
    """Numbers tokens by a vocabulary of one's own; in that of pairs `SEPARATOR` comes first."""

    needs_vocabulary = True
    pad_id = PAD
    unknown_id = UNKNOWN

    def frame(self, *, is_pair: bool) -> Frame:
        return Frame(between=(FIRST,)) if is_pair else Frame()


class PatternTokenizer(OwnTokenizer):
    """Every match of a pattern is a token."""

    def __init__(self, pattern: re.Pattern[str], *, lower_case: bool) -> None:
        self.pattern, self.lower_case = pattern, lower_case
        self.digest = pattern.pattern
        self._vocabulary: list[str] = []
        self._numbers: dict[str, int] = {}

    def split(self, text: str) -> list[str]:
        return self.pattern.findall(text.lower() if self.lower_case else text)

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        return vocabulary_of(counts, most, min_count)

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        if self._vocabulary is not vocabulary:
            self._vocabulary = vocabulary
            self._numbers = {token: number for number, token in enumerate(vocabulary, start=FIRST)}
        return [self._numbers.get(token, UNKNOWN) for token in self.split(text)]


class PretrainedTokenizer(Tokenizer):
    """A tokenizer of the Hugging Face hub, or of a folder."""

    needs_vocabulary = False

    def __init__(self, name: str) -> None:
        from tokenizers import Tokenizer as Backend  # here: characters and words should not wait for it
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"data.tokenizer: {name!r} is neither characters nor words nor subwords nor a tokenizer that can be "
                f"loaded: {str(error).splitlines()[0]}"
            ) from error
        self.pad_id = self.tokenizer.pad_token_id or 0
        self.unknown_id = self.pad_id if self.tokenizer.unk_token_id is None else self.tokenizer.unk_token_id
        self.has_segments = "token_type_ids" in self.tokenizer.model_input_names
        content = self.tokenizer.backend_tokenizer.to_str()
        self.digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        # A copy without the cutting and padding that some tokenizer.json ask for.
        self._backend = Backend.from_str(content)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._frames = {is_pair: self._frame(is_pair) for is_pair in (False, True)}

    def split(self, text: str) -> list[str]:
        tokens: list[str] = self.tokenizer.tokenize(text)
        return tokens

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        return []

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        ids: list[int] = self._backend.encode(whole_characters(text), add_special_tokens=False).ids
        return ids

    def frame(self, *, is_pair: bool) -> Frame:
        return self._frames[is_pair]

    def _frame(self, is_pair: bool) -> Frame:
        encoded = self._backend.encode("a", "a" if is_pair else None)
        parts: list[list[int]] = [[], [], [], [], []]  # before, first text, between, second text, after
        segments = [0] * 5
        part = 0
        for number, segment, text in zip(encoded.ids, encoded.type_ids, encoded.sequence_ids, strict=True):
            part = part + part % 2 if text is None else 2 * text + 1
            parts[part].append(number)
            segments[part] = segment
        before, _, between, _, after = map(tuple, parts)
        return Frame(before, between, after, tuple(segments)) if is_pair else Frame(before, after=between)


def whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can hold and the tokenizers library refuses.

    >>> whole_characters("a" + chr(0xD83D))
    'a\ufffd'
    """
    return _HALF_CHARACTERS.sub("\ufffd", text)


def load_tokenizer(name: str, *, lower_case: bool) -> Tokenizer:
    """Give the tokenizer that `characters`, `words`, `subwords`, a hub name or a folder stands for."""
    patterns = {"characters": re.compile(r"\S"), "words": _WORDS}
    if name in patterns:
        return PatternTokenizer(patterns[name], lower_case=lower_case)
    if name == "subwords":
        from lightrail.datamodules.tokens.subwords import SubwordTokenizer

        return SubwordTokenizer(lower_case=lower_case)
    return PretrainedTokenizer(name)


def vocabulary_of(counts: Counter[str], most: int, min_count: int) -> list[str]:
    """List the most frequent tokens, ties in the order of their characters."""
    frequent = sorted(
        (token for token in counts if counts[token] >= min_count), key=lambda token: (-counts[token], token)
    )
    return frequent[:most]
