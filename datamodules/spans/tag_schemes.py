"""Conversion of tags of tokens to spans, and detection of the tagging scheme.

A scheme defines the tags of an entity's tokens by role: the first, those inside, the last, a single one. Letters differ
(BIOES, BMES, BMEW and BILOU are equivalent); IO cannot separate neighbours; IOB1 has B only for an entity that directly
follows another of its type; IOB2 has B at the start of every entity.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from lightrail.project.basics.errors import shown

Scheme = Literal["IO", "IOB1", "IOB2", "BIOES", "BMES", "BMEW", "BILOU"]
Role = Literal["begin", "inside", "end", "single"]
Span: TypeAlias = tuple[int, int, str]
"""First token, end (exclusive) and type of an entity."""

OUTSIDE = "O"
ROLES: dict[Scheme, dict[str, Role]] = {
    "IO": {"I": "inside"},
    "IOB1": {"B": "begin", "I": "inside"},
    "IOB2": {"B": "begin", "I": "inside"},
    "BIOES": {"B": "begin", "I": "inside", "E": "end", "S": "single"},
    "BMES": {"B": "begin", "M": "inside", "E": "end", "S": "single"},
    "BMEW": {"B": "begin", "M": "inside", "E": "end", "W": "single"},
    "BILOU": {"B": "begin", "I": "inside", "L": "end", "U": "single"},
}
"""Role of each letter, by scheme. Schemes with an `end` mark every border of an entity."""


class Fault(NamedTuple):
    """A tag that is invalid in its scheme."""

    token: int
    """Index of the tag in its sentence."""
    reason: str
    can_repair: bool = True
    """Whether the tag can be read as a border of an entity."""


@lru_cache(maxsize=4096)
def split_tag(tag: str) -> tuple[str, str] | None:
    """Split a tag other than O into letter and type; None if it is not LETTER-TYPE.

    >>> split_tag("B-PER.NAM"), split_tag("M_ORG"), split_tag("B"), split_tag("Person")
    (('B', 'PER.NAM'), ('M', 'ORG'), None, None)
    """
    if len(tag) < 3 or tag[1] not in "-_" or any(character.isspace() for character in tag):
        return None
    return tag[0], tag[2:]


def read_tags(tags: Sequence[str], scheme: Scheme, *, keeps_broken: bool = True) -> tuple[list[Span], list[Fault]]:
    """Return the entities of a sentence's tags, in order, and the faults of the tags.

    An entity whose tags break the scheme is broken: an inside or end tag without a begin starts it, and without an end
    tag it ends before the next tag that does not continue it. conlleval counts such entities; with `keeps_broken` False
    they are omitted, as in seqeval's strict mode.
    """
    reader = _TagReader(scheme, keeps_broken=keeps_broken)
    for index, tag in enumerate(tags):
        reader.read(index, tag)
    reader.close(len(tags))
    return reader.spans, reader.faults


class _TagReader:
    def __init__(self, scheme: Scheme, *, keeps_broken: bool) -> None:
        self.scheme, self.roles, self.keeps_broken = scheme, ROLES[scheme], keeps_broken
        self.marks_ends = "end" in self.roles.values()
        self.spans: list[Span] = []
        self.faults: list[Fault] = []
        self.start, self.open_type = 0, ""  # no type: no entity is open
        self.is_broken = False

    def read(self, index: int, tag: str) -> None:
        if tag == OUTSIDE:
            self._interrupt(index, tag)
            return
        parts = split_tag(tag)
        role = self.roles.get(parts[0]) if parts else None
        if parts is None or role is None:
            self.faults.append(Fault(index, _unreadable(tag, self.scheme), can_repair=False))
            self._interrupt(index, tag)
            return
        self._take(index, tag, role, parts[1])

    def _take(self, index: int, tag: str, role: Role, kind: str) -> None:
        if role not in ("inside", "end") or self.open_type != kind:
            follows_its_type = self.open_type == kind
            self._interrupt(index, tag)
            self.start, self.open_type, self.is_broken = index, kind, False
            if role in ("inside", "end") and self.scheme not in ("IO", "IOB1"):
                self._break(index, f"{tag} without B-{kind} before it")
            elif role == "begin" and self.scheme == "IOB1" and not follows_its_type:
                self._break(index, f"{tag} does not directly follow an entity of its type, as B must in IOB1")
        if role in ("end", "single"):
            self._emit(index + 1)

    def _interrupt(self, index: int, tag: str) -> None:
        """Close the open entity, which this tag does not continue."""
        if self.open_type and self.marks_ends:
            self._break(index, f"{tag} where the {self.open_type} before it has not ended")
        self._emit(index)

    def close(self, end: int) -> None:
        """End the sentence."""
        if self.open_type and self.marks_ends:
            self._break(end - 1, f"the sentence ends and its last {self.open_type} has no end tag")
        self._emit(end)

    def _break(self, index: int, reason: str) -> None:
        self.faults.append(Fault(index, reason))
        self.is_broken = True

    def _emit(self, end: int) -> None:
        if self.open_type and (self.keeps_broken or not self.is_broken):
            self.spans.append((self.start, end, self.open_type))
        self.open_type = ""


def _unreadable(tag: str, scheme: Scheme) -> str:
    expected = ", ".join(f"{letter}-TYPE" for letter in ROLES[scheme])
    if tag in ROLES[scheme]:
        return f"{tag} has no type (expected {expected} or O)"
    return f"{shown(tag)} is no tag of the scheme {scheme} (expected {expected} or O)"


class SchemeEvidence:
    """Counts of tags that distinguish the schemes, over any number of sentences."""

    def __init__(self) -> None:
        self.letters: Counter[str] = Counter()
        self.num_plain_begins = 0
        """Number of B not directly after an entity of the same type: in IOB2, never in IOB1."""
        self.num_bare_starts = 0
        """Number of I not directly after an entity of the same type: in IOB1, never in IOB2."""

    def add(self, tags: Sequence[str]) -> None:
        """Count the tags of a sentence."""
        before = ""
        for tag in tags:
            parts = split_tag(tag) if tag != OUTSIDE else None
            if parts is None:
                before = ""
                continue
            letter, kind = parts
            self.letters[letter] += 1
            if before != kind:
                self.num_plain_begins += letter == "B"
                self.num_bare_starts += letter == "I"
            before = kind

    def decide(self) -> Scheme | None:
        """Return the scheme by the letters, or None if they fit none; IOB1 or IOB2 by the start of most entities."""
        # With I as the only letter IO and IOB1 are equivalent: IOB1, which also reads a B in another file.
        found = set(self.letters)
        if found <= set("BI"):
            return "IOB1" if self.num_bare_starts > self.num_plain_begins else "IOB2"
        candidates: tuple[Scheme, ...] = ("BIOES", "BMES", "BMEW", "BILOU")
        return next((scheme for scheme in candidates if found <= set(ROLES[scheme])), None)

    def __str__(self) -> str:
        counts = ", ".join(f"{letter} {count:,}" for letter, count in sorted(self.letters.items()))
        begins = (
            f"; {self.num_plain_begins:,} entities begin with B and {self.num_bare_starts:,} with I, "
            f"without those that directly follow one of their type"
        )
        return (counts or "no tag but O") + (begins if set(self.letters) <= set("BI") else "")
