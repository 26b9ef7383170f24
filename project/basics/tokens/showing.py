"""Tokens as readers know them: pieces of the text, without the marks of a tokenizer."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from lightrail.project.basics.tokens.numbering import LanguageTokenizer, byte_alphabet

UNKNOWN_NAMES = ("", "[UNK]", "<unk>", "<unknown>")
_SPACES = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_SPACE_OF_BYTES = byte_alphabet()[ord(" ")]
_BYTE_OF = {character: value for value, character in enumerate(byte_alphabet())}
_WORDS = re.compile(r"\w+|[^\w\s]")
_MARKS = ("##", "▁", "</w>")


def shown_ids(tokenizer: LanguageTokenizer, ids: Iterable[int], text: str = "") -> list[str]:
    """Return the text of each token of a language tokenizer; see `shown_tokens`."""
    names = {number: name for name, number in tokenizer.token_ids().items()}
    return shown_tokens(ids, names, text)


def shown_tokens(ids: Iterable[int], names: Mapping[int, str], text: str = "") -> list[str]:
    """Return the text of each token, bytes that are no whole character in hexadecimal.

    Args:
        names: the tokenizer's own name of each id; an id that it lacks is an unknown token.
        text: what the tokens were made of: an unknown token becomes the part of it between its neighbours.

    >>> shown_tokens([5, 6, 1, 6], {5: "good", 6: "##s"}, "goods 书s")
    ['good', 's', '书', 's']
    """
    is_bytes = any(name.startswith(_SPACE_OF_BYTES) for name in names.values())
    pieces = [None if (name := names.get(own, "")) in UNKNOWN_NAMES else _plain(name, is_bytes) for own in ids]
    return _filled(pieces, text)


def _plain(name: str, is_bytes: bool) -> str:
    if is_bytes and all(character in _BYTE_OF for character in name):
        content = bytes(_BYTE_OF[character] for character in name)
        try:
            name = content.decode()
        except UnicodeDecodeError:
            return f"‹{content.hex(' ').upper()}›"
    for mark in _MARKS:
        name = name.removeprefix(mark).removesuffix(mark) if name != mark else " "
    return "".join(_SPACES.get(own, own) for own in name.strip(" ") or name)


def _filled(pieces: Sequence[str | None], text: str) -> list[str]:
    """Replace unknown pieces by what the text has between the known ones around them, `?` where that is not clear."""
    lower = text.lower() if len(text.lower()) == len(text) else text
    shown: list[str] = []
    place = 0
    for is_unknown, group in itertools.groupby(pieces, lambda piece: piece is None):
        own = list(group)
        if not is_unknown:
            for piece in filter(None, own):
                found = lower.find(piece.lower(), place)
                place = place if found < 0 else found + len(piece)
                shown.append(piece)
            continue
        following = next((piece for piece in pieces[len(shown) + len(own) :] if piece), None)
        end = len(text) if following is None else lower.find(following.lower(), place)
        between = text[place:end] if end >= 0 else ""
        ways = ([between.strip()], between.split(), _WORDS.findall(between), "".join(between.split()))
        parts = next((way for way in ways if len(way) == len(own)), "")
        shown += [part or "?" for part in parts or "?" * len(own)]
    return shown
