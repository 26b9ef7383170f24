"""Loading of language tokenizers: learned from texts, or from Hugging Face."""

import base64
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.numbering import (
    FIRST_NUMBER,
    HALVES,
    NUM_BYTES,
    NUM_CHARACTERS,
    Kind,
    LanguageTokenizer,
    byte_alphabet,
    code_points,
)
from lightrail.project.basics.tokens.tokenizing import load_pretrained, whole_characters

END = "<end>"
"""Token at the start and the end of each document, unless the tokenizer is a Hugging Face one."""
UNKNOWN = "\ufffd"
MARIAN = "MarianTokenizer"
"""Class of the tokenizers of Marian models, which have a sentencepiece model for each side."""
_CHARACTERS_PER_COUNT = 2**20
"""Texts are counted in groups of this length: a count takes memory and time for every code point."""


def needs_texts(name: str) -> bool:
    """Whether a tokenizer of this name is learned from texts."""
    return name in ("characters", "subwords")


def load_language_tokenizer(
    name: str, texts: Iterable[str] = (), *, max_vocabulary: int = 8192, min_count: int = 1
) -> LanguageTokenizer:
    """Load the tokenizer of a name, or learn it from texts.

    Args:
        name: `characters`, `bytes`, `subwords` (byte pairs, joined by frequency), a name on the hub, or a folder.
        texts: texts of the training split; read if `needs_texts`.
        max_vocabulary: maximum of V, for characters and subwords; at least 257 for subwords.
        min_count: minimum count of a character, or of a pair of subwords, that is a token.

    Raises: ConfigError when there is no such tokenizer, or it has no token that ends a document.
    """
    if name == "characters":
        return characters_tokenizer(count_characters(texts), max_vocabulary=max_vocabulary, min_count=min_count)
    if name == "bytes":
        return _bytes_tokenizer()
    if name == "subwords":
        return _subwords_tokenizer(texts, max_vocabulary, min_count)
    return _pretrained_tokenizer(name)


def count_characters(texts: Iterable[str]) -> NDArray[np.int64]:
    """Count the characters of texts by code point, [1114112]."""
    counts = np.zeros(NUM_CHARACTERS, np.int64)
    held: list[str] = []
    num_held = 0
    for text in texts:
        held.append(text)
        num_held += len(text)
        if num_held >= _CHARACTERS_PER_COUNT:
            _count("".join(held), counts)
            held, num_held = [], 0
    _count("".join(held), counts)
    return counts


def _count(text: str, counts: NDArray[np.int64]) -> None:
    own = np.bincount(code_points(text))
    counts[: len(own)] += own


def characters_tokenizer(
    counts: NDArray[np.int64], *, max_vocabulary: int = 8192, min_count: int = 1
) -> LanguageTokenizer:
    """Make a tokenizer of the most frequent characters, ties by code point; all others are one token, U+FFFD.

    Args:
        counts: counts by `count_characters`; those of the parts of a corpus are summed.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if max_vocabulary <= FIRST_NUMBER:
        raise ConfigError(f"data.max_vocabulary is {max_vocabulary}. Give at least {FIRST_NUMBER + 1} for characters.")
    counts = counts.copy()
    counts[ord(UNKNOWN)] = counts[HALVES] = 0
    seen = np.flatnonzero(counts >= max(1, min_count))
    frequent = seen[np.argsort(-counts[seen], kind="stable")][: max_vocabulary - FIRST_NUMBER]
    tokens = [END, UNKNOWN, *map(chr, frequent.tolist())]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return LanguageTokenizer.from_facts(_own_facts("characters", backend, unk_token=UNKNOWN))


def _bytes_tokenizer() -> LanguageTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = [*byte_alphabet(), END]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return LanguageTokenizer.from_facts(_own_facts("bytes", backend))


def _subwords_tokenizer(texts: Iterable[str], max_vocabulary: int, min_count: int) -> LanguageTokenizer:
    """Train byte pairs (Sennrich et al., 2016) within words, split as for GPT-2 (Radford et al., 2019)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if max_vocabulary <= NUM_BYTES:
        raise ConfigError(
            f"data.max_vocabulary is {max_vocabulary}. Give at least {NUM_BYTES + 1} for subwords: the bytes, and the "
            f"end of a document."
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocabulary,
        min_frequency=min_count,
        special_tokens=[END],
        initial_alphabet=byte_alphabet(),  # first and sorted: equal counts give equal pairs in any order of the library
        show_progress=False,
    )
    backend.train_from_iterator(map(whole_characters, texts), trainer)
    return LanguageTokenizer.from_facts(_own_facts("subwords", backend))


def _own_facts(kind: Kind, backend: Any, **special_tokens: str) -> dict[str, Any]:
    end = backend.token_to_id(END)
    return {
        "kind": kind,
        "size": backend.get_vocab_size(),
        "start_id": end,
        "end_id": end,
        "json": backend.to_str(),
        "chat_template": None,
        "special_tokens": {"bos_token": END, "eos_token": END, **special_tokens},
    }


def load_reader(name: str) -> Any:
    """Load a tokenizer of transformers that `LanguageTokenizer` can read. Raises: ConfigError when there is none."""
    return load_pretrained(name, "characters, bytes, subwords", in_python=[MARIAN])


def _pretrained_tokenizer(name: str) -> LanguageTokenizer:
    tokenizer = load_reader(name)
    if type(tokenizer).__name__ == MARIAN:
        return _marian_tokenizer(name, tokenizer)
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if end is None:
        raise ConfigError(
            f"data.tokenizer: {name!r} has no token that ends a text (eos_token). Choose one that has, or name it in "
            f"its tokenizer_config.json."
        )
    with reading(f"data.tokenizer: {shown(name, 200)} encodes no text", "Choose another tokenizer."):
        first = tokenizer("a")["input_ids"][:1]
    facts = {
        "kind": "pretrained",
        "size": max(tokenizer.get_vocab().values()) + 1,
        "start_id": first[0] if first and first[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else end,
        "end_id": end,
        "json": tokenizer.backend_tokenizer.to_str(),
        "chat_template": _chat_template(tokenizer.chat_template),
        "special_tokens": {key: str(token) for key, token in tokenizer.special_tokens_map.items() if _is_one(token)},
    }
    return LanguageTokenizer.from_facts(facts)


def _marian_tokenizer(name: str, tokenizer: Any) -> LanguageTokenizer:
    if tokenizer.separate_vocabs:
        raise ConfigError(
            f"data.tokenizer: {shown(name, 200)} is a Marian tokenizer with a vocabulary for each side, which is not "
            "supported. Choose a checkpoint with one vocab.json."
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {file.name: base64.b64encode(file.read_bytes()).decode() for file in sorted(Path(folder).iterdir())}
    special = {"eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token, "pad_token": tokenizer.pad_token}
    facts = {
        "kind": "marian",
        "side": "source",
        "size": max(tokenizer.get_vocab().values()) + 1,
        "start_id": tokenizer.pad_token_id,
        "end_id": tokenizer.eos_token_id,
        "files": files,
        "chat_template": None,
        "special_tokens": special,
    }
    with reading(f"data.tokenizer: {shown(name, 200)} cannot be read", "Choose another tokenizer."):
        return LanguageTokenizer.from_facts(facts)


def _is_one(token: object) -> bool:
    return not isinstance(token, list | dict)


def _chat_template(template: str | Mapping[str, str] | None) -> str | None:
    return template.get("default") if isinstance(template, Mapping) else template
