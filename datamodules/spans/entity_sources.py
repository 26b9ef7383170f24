"""Sources of entities: their format, recognised by content, the columns to read, and names of tags that are numbers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightrail.datamodules.reading import FileFormat, ReadingNotes, Row
from lightrail.datamodules.reading.files import STANDARD_INPUT, existing_file
from lightrail.datamodules.reading.hub import PREFIX
from lightrail.datamodules.reading.rows import check_size
from lightrail.datamodules.reading.sources import EMBEDDED_PREFIX, column_names, format_of, tagged_format
from lightrail.project.basics.errors import DataError, shown
from lightrail.project.basics.reading import reading, regular_file

COLUMN_SETTINGS = {
    "tokens_column": "tokens",
    "tags_column": "tags",
    "text_column": "text",
    "entities_column": "entities",
}
"""Settings of columns, with their defaults."""
_ALTERNATIVES = {
    "tokens_column": ("words",),
    "tags_column": ("ner_tags", "ner", "labels"),
    "entities_column": ("label", "labels", "spans", "ents"),
}
"""Names that published sets give to a column, tried in turn where the default one is not there."""
ANSWER = "answer"
"""Column of Prodigy: `accept`, or `reject` and `ignore` for an annotation that does not count."""
_FORMS = {"jsonl": "JSON", "parquet": "Parquet", "auto": "data set"}


class EntitySource(NamedTuple):
    """A file's notes and layout, while its rows are encoded."""

    notes: ReadingNotes
    columns: Mapping[str, str]
    has_token_lines: bool
    """Whether each token has a line of its own; the line of a sentence is that of its first token."""
    names: tuple[list[str], str]
    """Names of tags that are numbers, and the file or setting that has them."""
    ends: Counter[bool]
    """Number of entities by whether their surface shows that the end is the last character."""

    def line(self, example: Row, token: int) -> int:
        """Return the line of a token of an example, or that of the example."""
        lines = example.values.get("lines")
        return lines[token] if lines else example.line + token * self.has_token_lines


def entity_format(source: str, stated: FileFormat, encoding: str, *, is_predicting: bool) -> FileFormat:
    """Return the format of a file with entities; `auto` for other sources.

    Args:
        stated: the setting; auto: of .jsonl, .parquet and .csv by the name, else by the first lines.
        is_predicting: a text file has texts to predict, one a line, unless its name says that it has tokens.
    """
    if source.startswith((EMBEDDED_PREFIX, PREFIX)):
        return "auto"
    if stated != "auto":
        return stated
    try:
        named = format_of(source)
    except DataError:  # train, test and dev are common endings of files of tagged lines
        if is_predicting:
            raise
        return tagged_format(source, encoding)
    is_open = named == "conll" or (named in ("txt", "tsv") and not is_predicting and source != STANDARD_INPUT)
    return tagged_format(source, encoding) if is_open else named


def entity_columns(
    source: str, file_format: FileFormat, settings: Mapping[str, str], encoding: str, *, is_predicting: bool
) -> Mapping[str, str]:
    """Return the columns to read, by setting: of tokens and tags, or of texts and entities.

    Args:
        settings: names of the four columns; another name of published sets replaces a default that is not there.
        is_predicting: leave out tags and entities.
    """
    if file_format in ("conll", "conllu"):
        columns = {"tokens_column": "tokens", "tags_column": "tags"}
        if file_format == "conllu":
            columns["lines_column"] = "lines"
        return {"tokens_column": "tokens"} if is_predicting else columns
    return columns_among(column_names(source, file_format, encoding), settings, is_predicting=is_predicting)


def columns_among(found: Sequence[str], settings: Mapping[str, str], *, is_predicting: bool) -> Mapping[str, str]:
    """Return the columns to read, as `entity_columns`, of records that have the columns `found`."""
    own = {setting: _found_name(setting, name, found) for setting, name in settings.items()}
    is_tagged = own["tokens_column"] in found and (own["tags_column"] in found or own["text_column"] not in found)
    names = ("tokens_column", "tags_column") if is_tagged else ("text_column", "entities_column")
    columns = {name: own[name] for name in names[: 1 if is_predicting else 2]}
    if ANSWER in found and not is_tagged and not is_predicting:
        columns[f"{ANSWER}_column"] = ANSWER
    return columns


def _found_name(setting: str, name: str, found: Sequence[str]) -> str:
    others = _ALTERNATIVES.get(setting, ()) if name == COLUMN_SETTINGS[setting] and name not in found else ()
    return next((other for other in others if other in found), name)


def described_columns(
    file_format: FileFormat, columns: Mapping[str, str], ends: Counter[bool], ends_inclusive: bool
) -> str:
    """Return the form of a source with columns, for the report of a check.

    Args:
        ends: number of entities by whether the text that they cover shows that their end is inclusive.
    """
    parts = [f"{what} in column {columns[own]}" for own, what in COLUMN_SETTINGS.items() if own in columns]
    form = f"{_FORMS.get(file_format, file_format)}: {', '.join(parts)}"
    if "entities_column" not in columns:
        return form
    if not ends:
        return f"{form}, ends {_ENDS[ends_inclusive]}"
    counts = " and ".join(f"{_ENDS[own]} of {ends[own]:,}" for own in sorted(ends))
    return f"{form}, ends {counts}, as the text that they cover shows"


_ENDS = ("exclusive", "inclusive")


def is_number(tag: str) -> bool:
    """Whether a tag is a number, which no tag of a scheme is."""
    return tag.removeprefix("-").isdecimal()


def tag_of_number(number: str, names: Sequence[str], where_from: str, where: str) -> str:
    """Return the name of a tag that is a number. Raises: DataError naming file and line (`where`) without one."""
    if not names:
        raise DataError(
            f"{where}: tags are numbers, such as {shown(number, 20)}, and neither the file nor dataset_info.json or "
            f"README.md beside it names them. Set data.tag_names='[O, B-PER, ...]', from 0 on."
        )
    if number.startswith("-") or len(number) > 6 or int(number) >= len(names):
        raise DataError(
            f"{where}: tag {shown(number, 20)} has no name: {where_from} names 0 to {len(names) - 1}. Correct it."
        )
    return names[int(number)]


_MOST_BYTES = 2**24


def stored_names(source: str, column: str) -> tuple[list[str], str]:
    """Return the names of a column's class numbers, and the file that has them; none: ([], "").

    They are in a Parquet file that the library `datasets` wrote, or in dataset_info.json or the head of README.md,
    beside the file or in the folder above it.
    """
    if source.startswith((EMBEDDED_PREFIX, PREFIX)) or source == STANDARD_INPUT:
        return [], ""  # `datasets` names them itself
    path = existing_file(source)
    if path.suffix == ".parquet" and (names := _names(_parquet_features(path), column)):
        return names, str(path)
    for folder in path.absolute().parents[:2]:
        for name, read in (("dataset_info.json", json.loads), ("dataset_infos.json", json.loads), ("README.md", _head)):
            file = folder / name
            if file.is_file():
                with reading(file, "Correct it, or set data.tag_names.", refusal=DataError):
                    regular_file(file, "data", most_bytes=_MOST_BYTES, refusal=DataError)
                    content = read(file.read_text("utf-8"))
                for features in _features(content):
                    if names := _names(features, column):
                        return names, str(file)
    return [], ""


def _parquet_features(path: Path) -> Any:
    from pyarrow import parquet

    with reading(path, "Write the file again.", refusal=DataError):
        stored = (parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        content = json.loads(stored)
    return content.get("info", {}).get("features") if isinstance(content, dict) else None


def _head(text: str) -> Any:
    """The YAML head of a README between lines of three hyphens."""
    _, mark, rest = text.partition("---\n")
    head, end, _ = rest.partition("\n---")
    return yaml.safe_load(head) if mark and end and text.startswith("---\n") else None


def _features(content: Any) -> list[Any]:
    """The features that a description states: its own, or those of each configuration."""
    if not isinstance(content, dict):
        return []
    own = content.get("dataset_info", content)
    configurations = own if isinstance(own, list) else [own, *own.values()] if isinstance(own, dict) else []
    return [each.get("features") for each in configurations if isinstance(each, dict)]


def _names(features: Any, column: str) -> list[str]:
    """The names of a column's classes: of features by name, as in JSON, or in a list, as in YAML."""
    if isinstance(features, list):
        features = {
            own.get("name"): own for own in features if isinstance(own, dict) if isinstance(own.get("name"), str)
        }
    own = features.get(column) if isinstance(features, dict) else None
    for _ in range(4):
        if isinstance(own, list) and len(own) == 1:
            own = own[0]
        if not isinstance(own, dict):
            return []
        names = own.get("names")
        if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
            names = [names[key] for key in sorted(names, key=lambda key: int(str(key)[:9]))]
        if isinstance(names, list):
            return [str(name) for name in names]
        own = next((own[key] for key in ("feature", "sequence", "list", "class_label") if key in own), None)
    return []


def check_tokens(row: Row, where: str) -> None:
    """Check that a row has tokens, and a tag for each where it has tags. Raises: DataError naming the place."""
    tokens, tags = row.values["tokens"], row.values.get("tags")
    if not isinstance(tokens, list) or not tokens or not all(tokens):
        raise DataError(f"{where}: tokens are {shown(tokens, 60)}. Give a list of tokens, none of them empty.")
    check_size(row, "tokens")
    if tags is not None and len(tags) != len(tokens):
        raise DataError(f"{where}: {len(tags)} tags for {len(tokens)} tokens. Give one tag for each token.")
