"""Tokenizers of encoders, from text to token ids: characters, words, trained subwords, or of Hugging Face."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.logs import without_warning
from lightrail.project.basics.reading import from_hub, quoted_path, reading, user_path
from lightrail.project.basics.tokens.truncating import Frame
from lightrail.project.basics.tokens.units import Offsets

PAD, UNKNOWN = 0, 1
FIRST = 2
"""Id of a vocabulary's first token."""
SEPARATOR = "[SEP]"
"""Token between the texts of a pair; no text contains it as one token, since punctuation is split."""
MASK = "[MASK]"
"""Token that stands for a hidden one, in vocabularies of masked language models."""
_WORDS = re.compile(r"\w+|[^\w\s]")
_CHARACTERS = re.compile(r"\S")
_SPACES = r"\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_PATTERNS_OF_BACKENDS = {
    _CHARACTERS.pattern: f"[^{_SPACES}]",
    _WORDS.pattern: rf"[\p{{L}}\p{{N}}_]+|[^\p{{L}}\p{{N}}_{_SPACES}]",
}
"""Patterns of tokens in the syntax of the library tokenizers, whose classes of characters are others than Python's."""
_NO_PIECE = ""
"""Name of the unknown token where tokens are looked up: no token is empty."""
_HALF_CHARACTERS = re.compile("[\ud800-\udfff]")


HINT_OF_MARIAN = ".*sacremoses"
"""Pattern of a warning: Marian's tokenizer recommends a package that its encoding does not use."""
_CONTINUES = "##"
"""Prefix of a piece that continues a word."""
_MAX_WORD = 100
"""Maximum length of a word, in characters; a longer one is unknown."""
_WORDS_PER_CHUNK = 10_000


class Located(NamedTuple):
    """An encoded text, and where its tokens are."""

    ids: list[int]
    text: str
    """The text as the tokenizer reads it, such as in lower case."""
    offsets: Offsets
    """First character and end (exclusive) of each token in `text`."""


class Tokenizer(ABC):
    """Splits texts into tokens, and encodes them as token ids."""

    needs_vocabulary: bool
    """Whether ids are those of a vocabulary that is learned from the training split."""
    has_segments = False
    """Whether its encoders receive the segment of each token, the first or second text of a pair."""
    pad_id: int
    unknown_id: int
    digest: str
    """Digest of everything that tokens depend on, except the vocabulary."""

    @abstractmethod
    def split(self, text: str) -> list[str]:
        """Split a text into the items that are counted to learn a vocabulary."""

    @abstractmethod
    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        """Return the tokens with ids from `FIRST` on, at most `most`, each with a count of at least `min_count`."""

    @abstractmethod
    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        """Encode a text as token ids, without special tokens; [] for some texts."""

    @abstractmethod
    def located(self, text: str, vocabulary: list[str]) -> "Located":
        """Encode a text as `numbers` does, with the place of each token in it."""

    @abstractmethod
    def frame(self, *, is_pair: bool) -> Frame:
        """Return the special tokens around one text, or around a pair."""

    @abstractmethod
    def to_backend(self, vocabulary: list[str]) -> Any:
        """Return a tokenizer of the library tokenizers that gives the same ids, with special tokens around a text."""

    def token_ids(self) -> Mapping[str, int]:
        """Return the ids of a pretrained tokenizer's tokens; {} where a vocabulary is learned instead."""
        return {}


class OwnTokenizer(Tokenizer):
    """A tokenizer with a learned vocabulary; in that of pairs `SEPARATOR` is first."""

    needs_vocabulary = True
    pad_id = PAD
    unknown_id = UNKNOWN

    def frame(self, *, is_pair: bool) -> Frame:
        return Frame(between=(FIRST,)) if is_pair else Frame()

    def to_backend(self, vocabulary: list[str]) -> Any:
        from tokenizers import Tokenizer, processors

        backend = Tokenizer.from_str(self._backend_of(vocabulary).to_str())
        if vocabulary[:1] == [SEPARATOR]:
            backend.post_processor = processors.TemplateProcessing(
                single="$A", pair=f"$A {SEPARATOR} $B", special_tokens=[(SEPARATOR, FIRST)]
            )
        return backend

    @abstractmethod
    def _backend_of(self, vocabulary: list[str]) -> Any: ...


class PatternTokenizer(OwnTokenizer):
    """A tokenizer for which every match of a pattern is a token."""

    def __init__(self, pattern: re.Pattern[str], *, lower_case: bool) -> None:
        self.pattern, self.lower_case = pattern, lower_case
        self.digest = pattern.pattern
        self._vocabulary: list[str] = []
        self._numbers: dict[str, int] = {}

    def split(self, text: str) -> list[str]:
        return self.pattern.findall(text.lower() if self.lower_case else text)

    def spelled(self, text: str) -> list[str]:
        """Return the tokens of `split` in the case of the text."""
        tokens, spelled = self.split(text), self.pattern.findall(text)
        return spelled if len(spelled) == len(tokens) else tokens  # some capitals are two characters in lower case

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        return vocabulary_of(counts, most, min_count)

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        if self._vocabulary is not vocabulary:
            self._vocabulary = vocabulary
            self._numbers = {token: number for number, token in enumerate(vocabulary, start=FIRST)}
        return [self._numbers.get(token, UNKNOWN) for token in self.split(text)]

    def located(self, text: str, vocabulary: list[str]) -> Located:
        plain = text.lower() if self.lower_case else text
        offsets = [match.span() for match in self.pattern.finditer(plain)]
        return Located(self.numbers(text, vocabulary), plain, offsets)

    def _backend_of(self, vocabulary: list[str]) -> Any:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        backend = Tokenizer(models.WordLevel(_numbered(vocabulary), unk_token=_NO_PIECE))
        backend.normalizer = normalizers.Lowercase() if self.lower_case else None
        pattern = _PATTERNS_OF_BACKENDS[self.pattern.pattern]
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        return backend


class PretrainedTokenizer(Tokenizer):
    """A tokenizer of the Hugging Face hub, or of a folder."""

    needs_vocabulary = False

    def __init__(self, name: str) -> None:
        from tokenizers import Tokenizer as Backend  # here: characters and words do not need this slow import

        self.tokenizer = load_pretrained(name, "characters, words, subwords")
        self.pad_id = self.tokenizer.pad_token_id or 0
        self.unknown_id = self.pad_id if self.tokenizer.unk_token_id is None else self.tokenizer.unk_token_id
        self.has_segments = "token_type_ids" in self.tokenizer.model_input_names
        content = self.tokenizer.backend_tokenizer.to_str()
        self.digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        # A copy without the truncation and padding that some tokenizer.json contain.
        self.backend = Backend.from_str(content)
        self.backend.no_truncation()
        self.backend.no_padding()
        with reading(f"data.tokenizer: {shown(name, 200)} encodes no text", "Choose another tokenizer."):
            self._frames = {is_pair: self._frame(is_pair) for is_pair in (False, True)}

    def split(self, text: str) -> list[str]:
        tokens: list[str] = self.tokenizer.tokenize(text)
        return tokens

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        return []

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        return self.located(text, vocabulary).ids

    def located(self, text: str, vocabulary: list[str]) -> Located:
        plain = whole_characters(text)
        encoded = encode_plain(self.backend, plain)
        return Located(encoded.ids, plain, encoded.offsets)

    def token_ids(self) -> Mapping[str, int]:
        ids: dict[str, int] = self.tokenizer.get_vocab()
        return ids

    def frame(self, *, is_pair: bool) -> Frame:
        return self._frames[is_pair]

    def to_backend(self, vocabulary: list[str]) -> Any:
        return type(self.backend).from_str(self.backend.to_str())

    def _frame(self, is_pair: bool) -> Frame:
        encoded = self.backend.encode("a", "a" if is_pair else None)
        parts: list[list[int]] = [[], [], [], [], []]  # before, first text, between, second text, after
        segments = [0] * 5
        part = 0
        for number, segment, text in zip(encoded.ids, encoded.type_ids, encoded.sequence_ids, strict=True):
            part = part + part % 2 if text is None else 2 * text + 1
            parts[part].append(number)
            segments[part] = segment
        before, _, between, _, after = map(tuple, parts)
        return Frame(before, between, after, tuple(segments)) if is_pair else Frame(before, after=between)


MOST_TOKENS = 2**24
"""Limit of the token ids of a pretrained tokenizer; the largest have about 2**18."""


def _check_ids(file: Path) -> None:
    """Refuse a tokenizer.json with absurd ids: its library reserves memory for each, and aborts the process without.

    Raises: ValueError naming the token.
    """
    if not file.is_file():
        return
    vocabulary = json.loads(file.read_text("utf-8")).get("model", {}).get("vocab")
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        if not isinstance(number, int) or not 0 <= number < MOST_TOKENS:
            raise ValueError(f"{quoted_path(file)} gives the token {shown(token)} the id {shown(number)}")


def load_pretrained(name: str, others: str, *, in_python: Collection[str] = ()) -> Any:
    """Load a tokenizer of the Hugging Face hub, or of a folder, without running code that comes with it.

    Args:
        others: the tokenizers that `data.tokenizer` could name instead, for messages.
        in_python: classes of transformers without a tokenizer.json that the caller can use.

    Raises: ConfigError when there is none, or it cannot be used.
    """
    from transformers import AutoTokenizer

    with from_hub("data.tokenizer", name, f"Name {others}, or a folder with tokenizer.json."):
        _check_ids(user_path(name) / "tokenizer.json")
        with without_warning(HINT_OF_MARIAN):
            # Without a decision on code transformers asks for one on standard input.
            tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False) and type(tokenizer).__name__ not in in_python:
        raise ConfigError(
            f"data.tokenizer: {shown(name, 200)} ({type(tokenizer).__name__}) exists in Python only, without a "
            "tokenizer.json. Choose a tokenizer that has one."
        )
    # Without its files transformers makes up a tokenizer of special tokens alone, to which every text is unknown.
    if not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens, "▁"}:
        raise ConfigError(
            f"data.tokenizer: {shown(name, 200)} has special tokens alone: it lacks tokenizer.json, or this file has "
            "no vocabulary. Save the tokenizer there, or name another."
        )
    return tokenizer


def encode_plain(backend: Any, text: str | list[str]) -> Any:
    """Encode a text, or its units, by the tokenizers library, without special tokens around it.

    Raises: ConfigError when the tokenizer cannot, as without a token for what it does not know.
    """
    with reading("data.tokenizer: a text cannot be encoded", "Choose another tokenizer."):
        return backend.encode(text, is_pretokenized=isinstance(text, list), add_special_tokens=False)


def whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can hold and the tokenizers library refuses.

    >>> whole_characters("a" + chr(0xD83D))
    'a\ufffd'
    """
    return _HALF_CHARACTERS.sub("\ufffd", text)


def load_tokenizer(name: str, *, lower_case: bool) -> Tokenizer:
    """Load the tokenizer `characters`, `words`, `subwords`, or one of Hugging Face by name or folder."""
    patterns = {"characters": _CHARACTERS, "words": _WORDS}
    if name in patterns:
        return PatternTokenizer(patterns[name], lower_case=lower_case)
    if name == "subwords":
        return SubwordTokenizer(lower_case=lower_case)
    return PretrainedTokenizer(name)


def vocabulary_of(counts: Counter[str], most: int, min_count: int) -> list[str]:
    """Return the most frequent tokens, ties in the order of their characters."""
    frequent = sorted(
        (token for token in counts if counts[token] >= min_count), key=lambda token: (-counts[token], token)
    )
    return frequent[:most]


class SubwordTokenizer(OwnTokenizer):
    """Word pieces: a word is its longest known beginning, then the longest known continuation, and so on.

    Words are split as for BERT: at white space, and around punctuation and Chinese characters. A word with a character
    that is not in the vocabulary is unknown as a whole.

    Source: Schuster and Nakajima (2012), "Japanese and Korean voice search"; trained by joining the most frequent pair
    of pieces, as Sennrich et al. (2016), "Neural machine translation of rare words with subword units".
    """

    def __init__(self, *, lower_case: bool) -> None:
        from tokenizers import normalizers, pre_tokenizers

        self._normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=lower_case)
        self._pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self.digest = "subwords"
        self._vocabulary: list[str] = []
        self._backend: Any = None

    def split(self, text: str) -> list[str]:
        plain = self._normalizer.normalize_str(whole_characters(text))
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(plain)]

    def vocabulary(self, counts: Counter[str], most: int, min_count: int) -> list[str]:
        """Train on counted words; the same counts give the same pieces, on every machine."""
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        words = {word: count for word, count in counts.items() if len(word) <= _MAX_WORD}
        # By default the library orders characters differently in every process, and joins equally frequent pairs in
        # that order: passed as special tokens they come first, in this order.
        characters = dict.fromkeys(vocabulary_of(_characters(words), most, min_count))
        # The library adds characters that only continue words as beginnings too, which no word has.
        unseen = {piece.removeprefix(_CONTINUES) for piece in characters} - characters.keys()
        trainer = trainers.WordPieceTrainer(
            vocab_size=most + len(unseen),
            min_frequency=min_count,
            special_tokens=list(characters),
            continuing_subword_prefix=_CONTINUES,
            show_progress=False,
        )
        backend = Tokenizer(models.WordPiece())
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.train_from_iterator(_repeated(words, characters.keys()), trainer)
        numbers = backend.get_vocab()
        return sorted(numbers.keys() - unseen, key=numbers.__getitem__)[:most]

    def numbers(self, text: str, vocabulary: list[str]) -> list[int]:
        return self.located(text, vocabulary).ids

    def located(self, text: str, vocabulary: list[str]) -> Located:
        if self._backend is None or self._vocabulary is not vocabulary:
            self._vocabulary, self._backend = vocabulary, self._backend_of(vocabulary)
        plain = whole_characters(text)
        encoded = self._backend.encode(plain)
        return Located(encoded.ids, plain, encoded.offsets)

    def _backend_of(self, vocabulary: list[str]) -> Any:
        from tokenizers import Tokenizer, models

        model = models.WordPiece(
            _numbered(vocabulary),
            unk_token=_NO_PIECE,
            max_input_chars_per_word=_MAX_WORD,
            continuing_subword_prefix=_CONTINUES,
        )
        backend = Tokenizer(model)
        backend.normalizer, backend.pre_tokenizer = self._normalizer, self._pre_tokenizer
        return backend


def _numbered(vocabulary: list[str]) -> dict[str, int]:
    """Return the ids of a vocabulary's tokens, and of the unknown one."""
    return {_NO_PIECE: UNKNOWN, **{token: number for number, token in enumerate(vocabulary, start=FIRST)}}


def _pieces(word: str) -> list[str]:
    return [word[0], *(_CONTINUES + character for character in word[1:])]


def _characters(words: dict[str, int]) -> Counter[str]:
    """Count characters, separately those that begin a word and those that continue one."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in _pieces(word):
            counts[piece] += count
    return counts


def _repeated(words: dict[str, int], characters: Set[str]) -> Iterator[str]:
    """Yield each word as often as it was counted, except those that will be unknown."""
    for word, count in words.items():
        if characters >= set(_pieces(word)):
            for start in range(0, count, _WORDS_PER_CHUNK):
                yield f"{word} " * min(_WORDS_PER_CHUNK, count - start)
