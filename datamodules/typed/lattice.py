"""All ways to read what was typed: pinyin in its many forms, and other text between it, as one lattice.

Places are offsets into the typed text. Separators (spaces; apostrophes between letters) are no output between two
syllables, and are kept between two copied characters. An edge of a syllable covers the separators behind it. A copied
edge does not: the next edge covers them, and if it is copied too its token has them. So which separators are kept
follows from the path, and no path has a choice.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from lightrail.datamodules.typed.spelling import (
    APOSTROPHES,
    INITIALS,
    INTERJECTIONS,
    SYLLABLES,
    TONE_MARKS,
    check_fuzzy,
    fuzzy_partners,
    spellings,
)
from lightrail.project.basics.annotations import NotNegative, Ranged

_LONGEST_WORD = 20
"""Number of letters up to which a part of a run of letters may be copied; a whole run may be of any length."""
_FEW_LETTERS = 4
"""Number of letters of syllables in a row that are hardly so by chance."""
_VOWELS = frozenset("aeiouvê")
_TONES = frozenset("012345")


@dataclass(frozen=True, kw_only=True)
class TypingConfig(Ranged):
    """How typed pinyin is read. A cost is in nats: the negative log probability that somebody types so."""

    fuzzy: list[str] = field(default_factory=lambda: ["u/v"])
    """Pairs that are confused: z/zh, c/ch, s/sh, n/l, an/ang, en/eng, in/ing, u/v. `fan` is then `fang` too. By u/v,
    `lu` is also lü."""
    initials: bool = True
    """Read initials alone, `bj` for `bei jing`."""
    fuzzy_cost: NotNegative = 2.0
    """Cost of each fuzzy pair by which a syllable differs from its letters."""
    initial_cost: NotNegative = 3.0
    """Cost of an initial alone, and of er written as r before a vowel."""
    unfinished_cost: NotNegative = 4.0
    """Cost of a syllable at the end of the text that lacks its last letters."""
    capital_cost: NotNegative = 3.0
    """Cost of each capital letter of a syllable, but for the first if small letters follow it."""
    copied_cost: NotNegative = 2.2
    """Cost of each letter that is copied; about that of a letter of an English word."""
    case_cost: NotNegative = 2.0
    """Cost of each change between small letters and capitals within copied letters, but for a first capital."""

    def __post_init__(self) -> None:
        """Check the settings. Raises: ConfigError."""
        super().__post_init__()
        check_fuzzy(self.fuzzy, "TypingConfig.fuzzy")


class EdgeKind(Enum):
    """What the letters of an edge are read as."""

    SYLLABLE = "syllable"
    INITIAL = "initial"
    COPIED = "copied"


class Edge(NamedTuple):
    """One reading of a part of a typed text."""

    start: int
    end: int
    """Places in the text as it was typed; what is between them includes separators that are no output."""
    token: str
    """A syllable (`nv`), an initial with a hyphen behind it (`zh-`), or text that is output as it was typed."""
    kind: EdgeKind
    cost: float
    """Nats charged for this reading; 0 for a syllable in full, and for characters that are no letters."""


@dataclass(frozen=True)
class Lattice:
    """The readings of a typed text; each path from place 0 to the end of the text is one."""

    text: str
    edges: tuple[Edge, ...]
    """Sorted by start and end; each is on a path. None for an empty text."""


def typed_lattice(text: str, config: TypingConfig) -> Lattice:
    """Return all readings of a typed text; time and memory grow with its length alone."""
    return Lattice(text, tuple(_on_paths(_Reader(text, config).edges(), len(text))))


class _Part(NamedTuple):
    """A letter with its marks, a run of separators, or any other character."""

    start: int
    letter: str = ""
    """In lower case, v for ü; "" unless pinyin has it."""
    is_letter: bool = False
    is_separator: bool = False
    is_capital: bool = False
    is_marked: bool = False
    """Whether it has a tone mark."""


class _Found(NamedTuple):
    """A syllable or an initial, from a part to the part `end`, exclusive."""

    end: int
    token: str
    kind: EdgeKind
    cost: float


class _Reader:
    """Finds the edges of one text, in terms of its parts."""

    def __init__(self, text: str, config: TypingConfig) -> None:
        self.text, self.config, self.parts = text, config, _parts(text)
        self.size = len(self.parts)
        self.places = [*(part.start for part in self.parts), len(text)]
        self.tables = _tables(tuple(config.fuzzy))
        self.found = [self._pinyin(number) if part.letter else [] for number, part in enumerate(self.parts)]
        self._add_erhua()

    def edges(self) -> Iterator[Edge]:
        """Yield the edges of the text, some of which may be on no path."""
        copied = self._copied()
        for number, part in enumerate(self.parts):
            if part.is_separator and number < self.size - 1:
                continue
            is_behind = number > 0 and self.parts[number - 1].is_separator
            for source in [number - 1] * is_behind + [number] * (not is_behind or number > 1):
                start = self.places[source]
                for own in self.found[number]:
                    end = own.end + (own.end < self.size and self.parts[own.end].is_separator)
                    yield Edge(start, self.places[end], own.token, own.kind, own.cost)
                for end, cost in copied[number]:
                    yield Edge(start, self.places[end], self.text[start : self.places[end]], EdgeKind.COPIED, cost)

    def _pinyin(self, number: int) -> list[_Found]:
        """Return the syllables and initials that the letters from a part on may be."""
        config, found = self.config, list[_Found]()
        for letters, end in self._walk(number):
            is_last = end == self.size
            for token, num_pairs in self.tables.syllables.get(letters, {}).items():
                if token not in INTERJECTIONS or not (self._is_letter(number - 1) or self._is_letter(end)):
                    self._add_syllable(found, number, end, token, num_pairs * config.fuzzy_cost)
            if config.initials and (is_last or self.parts[end].letter not in _VOWELS):
                for token, num_pairs in self.tables.initials.get(letters, {}).items():
                    cost = config.initial_cost + num_pairs * config.fuzzy_cost + self._capital_cost(number, end)
                    found.append(_Found(end, token, EdgeKind.INITIAL, cost))
            if is_last and letters not in self.tables.initials:
                for token in self.tables.prefixes[letters]:
                    self._add_syllable(found, number, end, token, config.unfinished_cost)
        return found

    def _walk(self, number: int) -> Iterator[tuple[str, int]]:
        """Yield all beginnings of syllables from a part on, each with the part where it ends."""
        waiting = [("", number, 0)]
        while waiting:
            letters, end, num_marks = waiting.pop()
            if letters:
                yield letters, end
            if end == self.size or not (part := self.parts[end]).letter or num_marks + part.is_marked > 1:
                continue
            following = [(letters + part.letter, end + 1)]
            if part.letter == "u" and self.text[self.places[end + 1] : self.places[end + 1] + 1] == ":":
                following.append((f"{letters}v", end + 2))
            waiting += [(own, to, num_marks + part.is_marked) for own, to in following if own in self.tables.prefixes]

    def _add_syllable(self, found: list[_Found], number: int, end: int, token: str, cost: float) -> None:
        cost += self._capital_cost(number, end)
        found.append(_Found(end, token, EdgeKind.SYLLABLE, cost))
        if self._is_tone(end):
            if token != "er":  # a digit behind several syllables is more probably a number
                cost += self.config.copied_cost * self._is_letter(number - 1)
            found.append(_Found(end + 1, token, EdgeKind.SYLLABLE, cost))

    def _add_erhua(self) -> None:
        """Read r as the syllable er behind another: nar is na and er."""
        for number in sorted({own.end for found in self.found for own in found if own.kind is EdgeKind.SYLLABLE}):
            if number < self.size and self.parts[number].letter == "r":
                is_before_vowel = number + 1 < self.size and self.parts[number + 1].letter in _VOWELS
                cost = is_before_vowel * self.config.initial_cost
                self._add_syllable(self.found[number], number, number + 1, "er", cost)

    def _capital_cost(self, number: int, end: int) -> float:
        num = sum(part.is_capital for part in self.parts[number:end])
        if num == 1 and self.parts[number].is_capital and self._is_letter(number + 1):
            num = self.parts[number + 1].is_capital
        return num * self.config.capital_cost

    def _is_letter(self, number: int) -> bool:
        return 0 <= number < self.size and self.parts[number].is_letter

    def _is_tone(self, number: int) -> bool:
        following = self.text[self.places[number] : self.places[number] + 2]
        return unicodedata.normalize("NFKC", following[:1]) in _TONES and not following[1:].isdigit()

    def _copied(self) -> list[list[tuple[int, float]]]:
        """Return, for each part, where copied text that begins with it ends, and its cost."""
        copied = [[] if part.is_letter else [(number + 1, 0.0)] for number, part in enumerate(self.parts)]
        number = 0
        while number < self.size:
            end = number
            while self._is_letter(end):
                end += 1
            if end > number:
                for start, stops in self._words(number, end).items():
                    copied[start] += [(stop, self._copied_cost(start, stop)) for stop in stops]
            number = end + 1
        return copied

    def _copied_cost(self, start: int, stop: int) -> float:
        num_changes = sum(self._changes_case(number, start) for number in range(start + 1, stop))
        return (stop - start) * self.config.copied_cost + num_changes * self.config.case_cost

    def _words(self, begin: int, end: int) -> dict[int, set[int]]:
        """Return the parts of a run of letters where copied text begins, each with those where it may end.

        That is the run as a whole, and words in it: at a change of case, or around a place where no syllable follows.
        """
        size = end - begin
        ends = [
            {min(own.end - begin, size) for own in self.found[number] if own.kind is EdgeKind.SYLLABLE}
            for number in range(begin, end)
        ]
        changes = {number for number in range(1, size) if self._changes_case(begin + number, begin)}
        stops: dict[int, set[int]] = {begin: {end}}
        for own_starts, own_stops in ({0, *changes}, {size, *changes}), *_words_between(ends, changes):
            for number in own_starts:
                near = range(number + 1, min(number + _LONGEST_WORD, size) + 1)
                stops.setdefault(begin + number, set()).update(begin + stop for stop in near if stop in own_stops)
        return stops

    def _changes_case(self, number: int, begin: int) -> bool:
        """Whether a word may begin in a run of letters: Wi and Fi in WiFi, KTV and li in KTVli."""
        *before, last, own = (part.is_capital for part in self.parts[max(begin, number - 2) : number + 1])
        return last != own and (own or all(before or [False]))


def _words_between(ends: Sequence[set[int]], changes: set[int]) -> Iterator[tuple[set[int], set[int]]]:
    """Yield, for each place in letters where no further syllable follows, where a word around it may begin and end.

    Args:
        ends: for each letter, where the syllables that begin with it end.
        changes: letters where the case changes; where there are such, a word ends there.
    """
    size = len(ends)
    reach = [*range(size + 1)]  # the end of the longest chain of syllables from each letter on
    for number in reversed(range(size)):
        reach[number] = max([number, *(reach[own] for own in ends[number])])
    is_likely = [reach[number] >= min(size, number + _FEW_LETTERS) for number in range(size)]
    starts, last = {0}, reach[0]
    while last < size:
        for number in range(min(starts), last):
            starts |= ends[number] if number in starts else set()
        first = last + 1
        while first < size and not is_likely[first]:
            first += 1
        near_end = min(first + 2 * _FEW_LETTERS, reach[first])
        near = {number for number in range(first, near_end) if is_likely[number]}
        near = near & changes or near
        last = max((reach[number] for number in near), default=size)
        yield starts, near | ({size} if last == size else set())
        starts = near


class _Tables(NamedTuple):
    """What letters may be."""

    syllables: Mapping[str, Mapping[str, int]]
    """By letters without tones: syllables, with the number of fuzzy pairs by which each differs."""
    initials: Mapping[str, Mapping[str, int]]
    """By letters: initials, written with a hyphen, with that number."""
    prefixes: Mapping[str, Sequence[str]]
    """By the first letters of a syllable: the longer syllables that begin so."""


@lru_cache(maxsize=64)
def _tables(pairs: tuple[str, ...]) -> _Tables:
    typed = spellings()
    syllables = {letters: {syllable: 0, **fuzzy_partners(syllable, pairs)} for letters, syllable in typed.items()}
    prefixes: dict[str, list[str]] = {letters[:size]: [] for letters in typed for size in range(1, len(letters) + 1)}
    for syllable in SYLLABLES:
        for size in range(1, len(syllable)):
            prefixes[syllable[:size]].append(syllable)
    initials = {own: {f"{own}-": 0} for own in (*INITIALS, "a", "e", "o")}
    for own in "zcs":
        initials[own][f"{own}h-"] = 0
    for own, other in [pair.split("/")[::step] for pair in pairs for step in (1, -1)]:
        if own in INITIALS:
            initials[own].setdefault(f"{other}-", 1)
    return _Tables(syllables, initials, prefixes)


def _parts(text: str) -> list[_Part]:
    parts: list[_Part] = []
    for place, character in enumerate(text):
        if parts and parts[-1].is_letter and unicodedata.combining(character):
            parts[-1] = _with_mark(parts[-1], character)
        elif not _is_separator(text, place, parts):
            parts.append(_part(character)._replace(start=place))
        elif not (parts and parts[-1].is_separator):
            parts.append(_Part(place, is_separator=True))
    return parts


def _is_separator(text: str, place: int, parts: Sequence[_Part]) -> bool:
    character = text[place]
    if character not in APOSTROPHES:
        return character == "\t" or unicodedata.category(character) == "Zs"
    is_behind = bool(parts) and (parts[-1].is_letter or text[place - 1] in _TONES)
    return is_behind and place + 1 < len(text) and _part(text[place + 1]).is_letter


@lru_cache(maxsize=2**12)
def _part(character: str) -> _Part:
    """Return a character as a part at place 0."""
    half_width = unicodedata.normalize("NFKC", character) if "\uff21" <= character <= "\uff5a" else character
    base, *marks = list(unicodedata.normalize("NFD", half_width))
    part = _Part(0)
    if base.isascii() and base.isalpha():
        part = _Part(0, base.lower(), is_letter=True, is_capital=base.isupper())
        for mark in marks:
            part = _with_mark(part, mark)
    return part


def _with_mark(part: _Part, mark: str) -> _Part:
    if mark in TONE_MARKS and not part.is_marked:
        return part._replace(is_marked=True)
    return part._replace(letter={"u\u0308": "v", "e\u0302": "ê"}.get(part.letter + mark, ""))


def _on_paths(edges: Iterator[Edge], end: int) -> list[Edge]:
    """Return the edges that are on a path from 0 to the end, in order; of several alike the one of the least cost."""
    cheapest: dict[tuple[int, int, str, str], Edge] = {}
    for edge in edges:
        key = (edge.start, edge.end, edge.kind.value, edge.token)
        if key not in cheapest or edge.cost < cheapest[key].cost:
            cheapest[key] = edge
    ordered = [cheapest[key] for key in sorted(cheapest)]
    from_start, to_end = {0}, {end}
    from_start.update(edge.end for edge in ordered if edge.start in from_start)
    to_end.update(edge.start for edge in reversed(ordered) if edge.end in to_end)
    return [edge for edge in ordered if edge.start in from_start and edge.end in to_end]
