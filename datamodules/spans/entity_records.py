"""Conversion of entities as character spans, in the formats of annotation tools, to spans of units."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lightrail.datamodules.reading.label_names import plain_label
from lightrail.datamodules.spans.tag_schemes import Span
from lightrail.project.basics.errors import DataError, shown
from lightrail.project.basics.tokens.units import Offsets

_KEYS = {
    "start": ("start", "start_offset", "start_idx", "start_char"),
    "end": ("end", "end_offset", "end_idx", "end_char"),
}
_TYPE_KEYS = ("type", "label", "entity")
_SURFACE_KEYS = ("text", "surface", "word", "entity")
_FORMS = '[{"start": 0, "end": 2, "type": "PER"}], [[0, 2, "PER"]] or {"PER": {"words": [[0, 2]]}}'


class Marked(NamedTuple):
    """An annotated entity, by characters; the end is exclusive."""

    start: int
    end: int
    kind: str
    spelt: str | None
    """The text that it should cover, if the annotation contains it."""
    is_inclusive: bool
    """Whether the annotation's end is the last character."""

    def shown(self, text: str) -> str:
        """Format the entity with the text that it covers, for messages."""
        return f"{self.kind} {self.start}:{self.end} ({shown(text[max(self.start, 0) : max(self.end, 0)], 40)})"


def marked_entities(entities: Any, text: str, where: str, *, ends_inclusive: bool) -> list[Marked]:
    """Read the annotation of one text.

    Where an annotation contains the covered text, this shows whether its end is the last character: at most one of the
    two readings can have it.

    Args:
        entities: a list of objects with start, end and type (or label), of lists [start, end, type], or an object
            from types to objects from words to lists of [start, end].
        where: file and line, for messages.
        ends_inclusive: the end is an entity's last character, not the one after it, where no text shows it.

    Raises: DataError when it has another format.
    """
    items = _of_types(entities, where) if isinstance(entities, Mapping) else entities
    if not isinstance(items, list):
        raise DataError(f"{where}: entities are {shown(entities, 60)}. Write them as {_FORMS}.")
    return [_by_surface(_marked(item, where, ends_inclusive), text) for item in items]


def _by_surface(entity: Marked, text: str) -> Marked:
    other = entity.end - 1 if entity.is_inclusive else entity.end + 1
    is_other = (
        entity.start >= 0 and entity.spelt == text[entity.start : other] and len(entity.spelt) == other - entity.start
    )
    return entity._replace(end=other, is_inclusive=not entity.is_inclusive) if is_other else entity


def _of_types(entities: Mapping[str, Any], where: str) -> list[Any]:
    try:
        return [
            {"start": start, "end": end, "type": kind, "text": spelt}
            for kind, words in entities.items()
            for spelt, places in words.items()
            for start, end in places
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: entities are {shown(entities, 60)}. Write them as {_FORMS}.") from error


def _marked(item: Any, where: str, ends_inclusive: bool) -> Marked:
    start: Any
    end: Any
    spelt = None
    if isinstance(item, Mapping):
        start, end = (next((item[key] for key in keys if key in item), None) for keys in _KEYS.values())
        named = next((key for key in _TYPE_KEYS if key in item), None)
        kind = item.get(named)
        spelt = next((item[key] for key in _SURFACE_KEYS if key in item and key != named), None)
    else:
        start, end, kind = item if isinstance(item, list | tuple) and len(item) == 3 else (None, None, None)
    is_place = type(start) is int and type(end) is int  # isinstance accepts bool as int
    if not is_place or not isinstance(kind, str):
        raise DataError(f"{where}: {shown(item, 60)} is not a valid entity. Write entities as {_FORMS}.")
    kind = plain_label(kind)
    if not kind or any(character.isspace() for character in kind):
        raise DataError(f"{where}: {shown(kind)} is not a valid type of entity. Give a name without white space.")
    spelt = spelt if isinstance(spelt, str) else None
    return Marked(start, end + ends_inclusive, kind, spelt, ends_inclusive)


def unit_spans(marked: list[Marked], text: str, offsets: Offsets, where: str, *, has_nested: bool) -> list[Span]:
    """Convert entities to spans of the units that they cover, sorted.

    Raises: DataError when one is empty, outside of the text, covers a part of a unit, is a duplicate, or overlaps
        another without `has_nested`.
    """
    starts = {start: unit for unit, (start, _) in enumerate(offsets)}
    ends = {end: unit + 1 for unit, (_, end) in enumerate(offsets)}
    spans: dict[Span, Marked] = {}
    for entity in marked:
        for problem in _problems(entity, text, starts, ends):
            raise DataError(f"{where}: entity {entity.shown(text)} {problem}")
        span = starts[entity.start], ends[entity.end], entity.kind
        if span in spans:
            raise DataError(f"{where}: entity {entity.shown(text)} is a duplicate. Drop one.")
        spans[span] = entity
    ordered = sorted(spans)
    for before, span in () if has_nested else _overlaps(ordered):
        raise DataError(
            f"{where}: entities {spans[before].shown(text)} and {spans[span].shown(text)} overlap. Correct them, or, "
            f"if entities may be nested, set data.has_nested=true."
        )
    return ordered


def _problems(entity: Marked, text: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[str]:
    start, end = entity.start, entity.end
    if start >= end:
        yield "is empty. Ends are exclusive; set data.ends_inclusive=true if they are the last character."
    if start < 0 or end > len(text):
        yield f"is not inside the text, which has {len(text)} characters. Correct it."
    if entity.spelt is not None and text[start:end] != entity.spelt:
        yield (
            f"is annotated as {shown(entity.spelt, 40)}, which is not there, whether the end is the last character or "
            f"the one after it. Correct it."
        )
    for border, place, known in (("begins", start, starts), ("ends", end, ends)):
        if place not in known:
            around = text[max(place - 8, 0) : place + 8]
            yield (
                f"{border} inside a unit or at white space ({around!r}). Correct it, or set data.units=characters if "
                f"entities are parts of words."
            )


def _overlaps(ordered: list[Span]) -> Iterator[tuple[Span, Span]]:
    last: Span | None = None
    for span in ordered:
        if last is not None and span[0] < last[1]:
            yield last, span
        last = span
