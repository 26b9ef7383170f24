"""Typed text as a list of tokens: where spaces separate the syllables, and else the most frequent ones."""

import math
import re
from collections.abc import Mapping, Sequence

from lightrail.datamodules.typed.lattice import Edge, EdgeKind
from lightrail.datamodules.typed.spelling import SYLLABLES, normalised

_PIECES = re.compile(" |[^ ]+")
_LETTER = re.compile("[a-zA-Z]")
_KNOWN = frozenset(SYLLABLES)


def is_cut(typed: str) -> bool:
    """Whether spaces, apostrophes or tones separate all syllables of a text that has several, or has no letters.

    >>> is_cut("wo ai bei jing"), is_cut("woaibeijing"), is_cut("xian"), is_cut("2026")
    (True, False, False, True)
    """
    tokens = normalised(typed)
    if not _LETTER.search(typed):
        return True
    return len(tokens) > 1 and all(token in _KNOWN for token in tokens if _LETTER.search(token))


def likeliest_cut(edges: Sequence[Edge], counts: Mapping[str, int]) -> list[str]:
    """Return the tokens of the path whose syllables are the most frequent; of copied text each word and space is one.

    Args:
        edges: those of a lattice.
        counts: how often each syllable, or initial, was seen.
    """
    total = sum(counts.values()) + 1
    best: dict[int, tuple[float, Edge | None]] = {0: (0.0, None)}
    for edge in edges:  # sorted by start
        nats = edge.cost
        if edge.kind is not EdgeKind.COPIED:
            nats -= math.log((counts.get(edge.token, 0) + 0.5) / total)
        reached = best[edge.start][0] + nats
        if edge.end not in best or reached < best[edge.end][0]:
            best[edge.end] = reached, edge
    tokens: list[str] = []
    _, last = best[max(best)]
    while last is not None:
        tokens += reversed(_PIECES.findall(last.token)) if last.kind is EdgeKind.COPIED else [last.token]
        _, last = best[last.start]
    return tokens[::-1]
