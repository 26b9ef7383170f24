"""Language tokenizers, from text to token ids and back: characters, bytes, trained subwords, or of Hugging Face.

Shapes: T tokens of a text, V tokens of the vocabulary.
"""

import base64
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.tokenizing import encode_plain, whole_characters
from lightrail.project.basics.tokens.units import WRITTEN_WITHOUT_SPACES

Ids = NDArray[np.int32]
Kind = Literal["characters", "bytes", "subwords", "pretrained", "marian"]

NUM_CHARACTERS = 0x110000
HALVES = slice(0xD800, 0xE000)
_END_NUMBER, _UNKNOWN_NUMBER, FIRST_NUMBER = 0, 1, 2
NUM_BYTES = 256
_BETWEEN_CHINESE = re.compile(f"(?<={WRITTEN_WITHOUT_SPACES}) (?={WRITTEN_WITHOUT_SPACES})")


class CountedTokens(NamedTuple):
    """The tokens of a text, and the numbers of characters and bytes that each covers."""

    ids: Ids
    """Token ids, [T]."""
    num_characters: NDArray[np.integer]
    """Number of characters of each token, which sum to those of the text, [T]; uint8, wider if a count needs it."""
    num_bytes: NDArray[np.integer]
    """Number of bytes in UTF-8 of each token, which sum to those of the text, [T]."""


class LanguageTokenizer(ABC):
    """Encodes a text as token ids, without special tokens around it, and decodes ids to text.

    Halves of surrogate pairs, which JSON can hold but UTF-8 cannot, are read as U+FFFD.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)
        for name in ("size", "start_id", "end_id"):
            if type(facts[name]) is not int or facts[name] < 0:
                raise ValueError(f"its {name} is {shown(facts[name])}, not a whole number")
        self.size: int = facts["size"]
        """V."""
        self.start_id: int = facts["start_id"]
        """Id of the token at the start of a document."""
        self.end_id: int = facts["end_id"]
        """Id of the token at the end of a document."""
        content = json.dumps(self._facts, sort_keys=True)
        self.digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        """Digest of everything that token ids depend on."""
        self._transformers: Any = None

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> "LanguageTokenizer":
        """Rebuild a tokenizer from its `facts`."""
        kinds: dict[str, type[LanguageTokenizer]] = {
            "characters": _Characters,
            "bytes": _Bytes,
            "subwords": _Subwords,
            "marian": _Marian,
        }
        with reading("the tokenizer in a checkpoint", "The file may be damaged: name another checkpoint."):
            return kinds.get(facts["kind"], _Backend)(facts)

    def facts(self) -> dict[str, Any]:
        """Return everything that rebuilds the tokenizer, as plain values."""
        return dict(self._facts)

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Encode a text as token ids, [T]."""

    @abstractmethod
    def encode_counted(self, text: str) -> CountedTokens:
        """Encode a text, with the numbers of characters and bytes that each token covers."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Decode token ids to text; special tokens decode to nothing."""

    def of_targets(self) -> "LanguageTokenizer":
        """Return the tokenizer of texts that are written, with the same token ids, where it is not this one."""
        return self

    def has_ids_of(self, other: "LanguageTokenizer") -> bool:
        """Whether both give each token the same id."""
        return self._facts == other._facts or (type(self) is type(other) and self.token_ids() == other.token_ids())

    def token_ids(self) -> dict[str, int]:
        """Return the id of each token."""
        from tokenizers import Tokenizer

        ids: dict[str, int] = Tokenizer.from_str(self._facts["json"]).get_vocab()
        return ids

    @property
    def has_chat_template(self) -> bool:
        """Whether `render_chat` can be used."""
        return bool(self._facts["chat_template"])

    def render_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False) -> str:
        """Format the turns of a conversation as one text, by the tokenizer's chat template.

        Args:
            messages: turns, each with a `role` and a `content`.
            add_generation_prompt: append the start of the assistant's next turn.

        Raises: ConfigError when the tokenizer has no chat template.
        """
        if not self.has_chat_template:
            raise ConfigError("this tokenizer has no chat template. Choose one that has, or set data.template.")
        text: str = self._of_transformers().apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def save(self, folder: Path | str) -> None:
        """Save the tokenizer for `transformers.AutoTokenizer`, which then gives the same token ids."""
        self._of_transformers().save_pretrained(str(folder))

    def _of_transformers(self) -> Any:
        if self._transformers is None:
            from tokenizers import Tokenizer
            from transformers import PreTrainedTokenizerFast

            facts = self._facts
            self._transformers = PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_str(facts["json"]),
                clean_up_tokenization_spaces=False,
                # Our own tokenizers encode <end> in a text letter by letter.
                **({} if facts["kind"] == "pretrained" else {"split_special_tokens": True}),
                **facts["special_tokens"],
            )
            self._transformers.chat_template = facts["chat_template"]
        return self._transformers


class _Characters(LanguageTokenizer):
    """Encodes characters by a table of all code points."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        vocabulary: dict[str, int] = json.loads(facts["json"])["model"]["vocab"]
        known = {ord(token): number for token, number in vocabulary.items() if len(token) == 1}
        self._spelled = np.zeros(self.size, "<u4")
        self._spelled[list(known.values())] = list(known)
        self._number_of = np.full(NUM_CHARACTERS, _UNKNOWN_NUMBER, np.int32)
        self._number_of[list(known)] = list(known.values())
        self._number_of[HALVES] = _UNKNOWN_NUMBER

    def encode(self, text: str) -> Ids:
        return self._number_of[code_points(text)]

    def encode_counted(self, text: str) -> CountedTokens:
        points = code_points(text)
        return CountedTokens(self._number_of[points], np.ones(len(points), np.uint8), _bytes_of(points))

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        numbers = np.asarray(ids, np.int64)
        spelled: bytes = self._spelled[numbers[numbers != _END_NUMBER]].tobytes()
        return spelled.decode("utf-32-le")


class _Bytes(LanguageTokenizer):
    """Encodes bytes of UTF-8; a token id is the byte."""

    def encode(self, text: str) -> Ids:
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)

    def encode_counted(self, text: str) -> CountedTokens:
        values = np.frombuffer(_utf8(text), np.uint8)
        return CountedTokens(values.astype(np.int32), _begins(values).astype(np.uint8), np.ones(len(values), np.uint8))

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        numbers = np.asarray(ids, np.int64)
        spelled: bytes = numbers[numbers < NUM_BYTES].astype(np.uint8).tobytes()
        return spelled.decode("utf-8", "replace")


class _Backend(LanguageTokenizer):
    """Encodes with the tokenizers library."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        from tokenizers import Tokenizer

        self._backend: Any = Tokenizer.from_str(facts["json"])
        self._backend.no_truncation()  # some files contain it
        self._backend.no_padding()
        # A decoder of word pieces puts a space between any two words, and treats each Chinese character as a word.
        self._joins_words = (json.loads(facts["json"]).get("decoder") or {}).get("type") == "WordPiece"

    def encode(self, text: str) -> Ids:
        return np.array(self._encoded(text).ids, np.int32)

    def encode_counted(self, text: str) -> CountedTokens:
        encoded, points = self._encoded(text), code_points(text)
        ends = np.array([end for _, end in encoded.offsets], np.int64)
        ends = np.maximum.accumulate(ends)  # tokens that are parts of one character all end with it
        ends[-1:] = len(points)  # a normalizer may remove the end of a text, such as white space
        num_bytes = np.concatenate([[0], np.cumsum(_bytes_of(points), dtype=np.int64)])  # of the text before
        ids = np.array(encoded.ids, np.int32)
        return CountedTokens(ids, _narrow(np.diff(ends, prepend=0)), _narrow(np.diff(num_bytes[ends], prepend=0)))

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        text = str(self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=True))
        return _BETWEEN_CHINESE.sub("", text) if self._joins_words else text

    def _encoded(self, text: str) -> Any:
        return encode_plain(self._backend, whole_characters(text))


class _Subwords(_Backend):
    """Encodes byte pairs; the bytes of a token depend on its id alone."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self._backend.encode_special_tokens = True  # <end> in a text is encoded letter by letter
        spelled = [_bytes_spelled(self._backend.id_to_token(number)) for number in range(self.size)]
        spelled[self.end_id] = b""
        self._num_bytes = _narrow(np.array([len(token) for token in spelled]))
        begins = [int(_begins(np.frombuffer(token, np.uint8)).sum()) for token in spelled]
        self._num_characters = _narrow(np.array(begins))
        self._spelled = spelled

    def encode_counted(self, text: str) -> CountedTokens:
        ids = self.encode(text)
        return CountedTokens(ids, self._num_characters[ids], self._num_bytes[ids])

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        return b"".join(self._spelled[number] for number in ids).decode("utf-8", "replace")


class _Marian(LanguageTokenizer):
    """Encodes the texts of one side of a Marian model: a sentencepiece model for each side, and ids for both.

    Source: J. Tiedemann and S. Thottingal (2020), "OPUS-MT: Building open translation services for the World".
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        files: dict[str, str] = facts["files"]
        self._ids: dict[str, int] = json.loads(base64.b64decode(files["vocab.json"]))
        self._names = {number: token for token, number in self._ids.items()}
        self._special = {self._ids[token] for token in facts["special_tokens"].values()}
        self._unknown = self._ids[facts["special_tokens"]["unk_token"]]
        # The word </s> in a text is no end of it.
        self._words = {token: number for token, number in self._ids.items() if number not in self._special}
        from sentencepiece import SentencePieceProcessor

        self._pieces = SentencePieceProcessor(model_proto=base64.b64decode(files[f"{facts['side']}.spm"]))

    def of_targets(self) -> LanguageTokenizer:
        return _Marian({**self._facts, "side": "target"})

    def encode(self, text: str) -> Ids:
        plain = whole_characters(text)
        language = _LANGUAGE.match(plain)
        start = language.end() if language else 0
        tokens = [plain[:start]] * bool(start) + self._pieces.encode(plain[start:], out_type=str)
        return np.array([self._words.get(token, self._unknown) for token in tokens], np.int32)

    def encode_counted(self, text: str) -> CountedTokens:
        raise ConfigError(
            "data.tokenizer: that of a Marian model is for translations, and does not say which characters a token "
            "covers. Choose another tokenizer."
        )

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        tokens = [self._names[number] for number in np.asarray(ids).tolist() if number not in self._special]
        return "".join(tokens).replace(_SPACE, " ").strip()

    def token_ids(self) -> dict[str, int]:
        return dict(self._ids)

    def save(self, folder: Path | str) -> None:
        for name, content in self._facts["files"].items():
            (Path(folder) / name).write_bytes(base64.b64decode(content))


_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Stands for a space in sentencepiece."""
_LANGUAGE = re.compile(">>.*?<<")
"""Before a source: the language to translate it to."""


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _bytes_of(points: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Number of bytes of each character in UTF-8; half a surrogate pair takes three, as U+FFFD does."""
    return np.searchsorted([0x80, 0x800, 0x10000], points, side="right").astype(np.uint8) + np.uint8(1)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole_characters(text).encode()


def _begins(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark the bytes that begin a character in UTF-8; those that continue one are 10xxxxxx."""
    return cast(NDArray[np.bool_], (values & 0xC0) != 0x80)


def _narrow(counts: NDArray[np.integer]) -> NDArray[np.integer]:
    return counts.astype(np.uint8 if counts.max(initial=0) <= np.iinfo(np.uint8).max else np.int64)


def byte_alphabet() -> list[str]:
    """Return the tokenizers library's character for each byte: itself if printable, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value if value in visible else next(others)) for value in range(NUM_BYTES)]


def _bytes_spelled(token: str) -> bytes:
    return bytes(_BYTE_OF.get(character, 0) for character in token)


_BYTE_OF = {character: value for value, character in enumerate(byte_alphabet())}
