"""Texts with annotated entities, for named-entity recognition."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig
from lightrail.datamodules.batches.spelling import Speller
from lightrail.datamodules.cache import digest_of
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Columns, FileFormat, ReadingNotes, Row, TaggedLines, read_rows
from lightrail.datamodules.reading.label_names import plain_label
from lightrail.datamodules.reading.sources import rows_given, source_digest
from lightrail.datamodules.spans.aligning import UnitEncoder, UnitNumbers, in_windows, load_unit_encoder
from lightrail.datamodules.spans.entity_batches import collate_entities
from lightrail.datamodules.spans.entity_records import marked_entities, unit_spans
from lightrail.datamodules.spans.entity_sources import (
    ANSWER,
    COLUMN_SETTINGS,
    EntitySource,
    check_tokens,
    columns_among,
    described_columns,
    entity_columns,
    entity_format,
    is_number,
    stored_names,
    tag_of_number,
)
from lightrail.datamodules.spans.tag_schemes import ROLES, Fault, Scheme, SchemeEvidence, Span, read_tags, split_tag
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.tokens.tokenizing import vocabulary_of
from lightrail.project.basics.tokens.units import Offsets, UnitEvidence, Units, cut_text, join_units

log = logging.getLogger(__name__)


@final
class EntityData(DataModule):
    """Sentences of tagged tokens, or texts with entities given by character; to predict, any texts.

    Tagged tokens come from CoNLL-like lines or CoNLL-U, which a file's content shows, or from the columns of tokens and
    tags of another source; texts with entities from .jsonl, .parquet or the hub, in the forms of doccano, spaCy and
    Prodigy, `{"text": ..., "entities": [{"start": 0, "end": 2, "type": "PER"}]}` or `[[0, 2, "PER"]]`, or of CLUENER,
    `{"PER": {"words": [[0, 1]]}}`. Nothing is cut: a text of more than `max_length` positions is read in overlapping
    windows.

    Args:
        path: training data; to predict, tags or entities may be missing.
        units: units that carry a tag, into which new texts are split: characters, or words (runs of letters and digits,
            and single other characters). Tokens that are characters are joined to a text without spaces; words with
            one, unless a neighbouring character is Chinese, Japanese or full-width.
        tokenizer: `units` for a network from scratch, or the name or folder of a Hugging Face tokenizer.
        scheme: scheme of the tags. auto: inferred from the tags of `path`, and logged.
        illegal_tags: treatment of a tag that is invalid in its scheme. repair: read it as the begin or end of an
            entity, as conlleval does; drop: omit entities whose tags break the scheme, as seqeval's strict mode does.
            Such tags are counted and reported.
        tagged_lines: layout of CoNLL-like lines.
        tokens_column, tags_column: names of the columns of tagged tokens, except in CoNLL-like lines. Where `tags` is
            not there, `ner_tags` is read.
        tag_names: names of tags that are numbers, from 0 on, where the data set does not name them.
        text_column, entities_column: names of the columns of texts with entities. Where `entities` is not there,
            `label`, `labels` or `spans` is read.
        ends_inclusive: the end of an entity is its last character, not the one after it. Where the text that an entity
            covers is given too, it decides.
        has_nested: entities may overlap.
        max_length: maximum number of positions of a window, special tokens included.
        max_vocabulary: maximum number of distinct units, the most frequent ones; without a Hugging Face tokenizer.
        min_count: a unit with a lower count in the training split is unknown; without a Hugging Face tokenizer.
        lower_case: treat A and a as equal; without a Hugging Face tokenizer.
        characters_per_word: maximum number of characters of a word, from its begin and end, for a network with
            `encoder.characters`; they keep their case, and unknown words have them too. 0: none, for other networks.
    """

    is_cut = False

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        units: Units = "characters",
        tokenizer: str = "units",
        scheme: Literal["auto", "IO", "IOB1", "IOB2", "BIOES", "BMES", "BMEW", "BILOU"] = "auto",
        illegal_tags: Literal["refuse", "repair", "drop"] = "refuse",
        tagged_lines: TaggedLines = TaggedLines(),
        tokens_column: str = "tokens",
        tags_column: str = "tags",
        tag_names: list[str] | None = None,
        text_column: str = "text",
        entities_column: str = "entities",
        ends_inclusive: bool = False,
        has_nested: bool = False,
        max_length: PositiveInt = 512,
        max_vocabulary: PositiveInt = 50_000,
        min_count: NaturalInt = 2,
        lower_case: bool = False,
        characters_per_word: NaturalInt = 0,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        tagged_lines.check()
        self.units, self.tokenizer, self.length_unit = units, tokenizer, units
        self.scheme, self.illegal_tags, self.tagged_lines = scheme, illegal_tags, tagged_lines
        self.tokens_column, self.tags_column, self.tag_names = tokens_column, tags_column, tag_names
        self.text_column, self.entities_column = text_column, entities_column
        self.ends_inclusive, self.has_nested, self.max_length = ends_inclusive, has_nested, max_length
        self.max_vocabulary, self.min_count, self.lower_case = max_vocabulary, min_count, lower_case
        self.characters_per_word, self._speller = characters_per_word, Speller(characters_per_word)
        self._check_settings()
        self._loaded: UnitEncoder | None = None
        self._sources: dict[str, EntitySource] = {}
        self._types: dict[str, str] = {}  # of any split, each with a place where it occurs
        self._evidence, self._tokens_seen = SchemeEvidence(), UnitEvidence()  # of `path`
        self._decided: Scheme | None = None
        self._type_numbers: dict[str, int] = {}
        self._type_labels: list[str] = []

    def columns(self, split: Split) -> Mapping[str, str]:
        source = {"validation": self.validation_path, "test": self.test_path}.get(split) or self.path
        return self._columns(source, split)

    def settings(self) -> Mapping[str, Any]:
        return {
            "units": self.units,
            "tokenizer": [self.tokenizer, self._encoder().digest],
            "tags": [self.scheme, self.illegal_tags, asdict(self.tagged_lines), *filter(None, [self.tag_names])],
            "columns": [self.tokens_column, self.tags_column, self.text_column, self.entities_column],
            "entities": [self.ends_inclusive, self.has_nested],
            "vocabulary": [self.max_vocabulary, self.min_count, self.lower_case],
            "max_length": self.max_length,
            **self._speller.settings(),
        }

    def digest(self, source: str, split: Split) -> str:
        digest = source_digest(source, self._file_format(source, split))
        names, _ = self._tag_names(source, self._columns(source, split))
        return digest_of([digest, names]) if names and names != self.tag_names else digest

    def read(self, source: str, split: Split, notes: ReadingNotes) -> Iterator[Row]:
        """Yield records with the keys `tokens` and `tags`, or `text` and `entities`, for any names of columns."""
        if split == "train":
            self._evidence, self._tokens_seen, self._decided = SchemeEvidence(), UnitEvidence(), None
        columns, reading = self._columns(source, split), self.reading
        file_format = self._file_format(source, split)
        names = self._tag_names(source, columns)
        about = EntitySource(notes, columns, has_token_lines=file_format == "conll", names=names, ends=Counter())
        for row in read_rows(
            source,
            columns=Columns(
                columns,
                structured=[columns[own] for own in ("entities_column", "answer_column") if own in columns],
                texts=[columns["text_column"]] if "text_column" in columns else (),
                optional=[columns["entities_column"], ANSWER] if ANSWER in columns.values() else (),
            ),
            encoding=reading.encoding,
            file_format=file_format,
            quoting=reading.quoting,
            column_names=reading.column_names,
            empty=reading.empty,
            tagged_lines=self.tagged_lines,
            notes=notes,
        ):
            self._sources.setdefault(row.file, about)
            values = {name.removesuffix("_column"): row.values[column] for name, column in columns.items()}
            if values.get(ANSWER, "accept") == "accept":
                yield Row(values, row.file, row.line)
        notes.form = notes.form or described_columns(file_format, columns, about.ends, self.ends_inclusive)
        if split == "train" and not self._is_adopted:
            setting = "tagged_lines.token_column" if file_format in ("conll", "conllu") else "tokens_column"
            self._tokens_seen.check(source, self.units, f"data.{setting}")

    def given(self, inputs: Sequence[Any]) -> Iterator[Row]:
        found = [name for own in inputs if isinstance(own, Mapping) for name in own]
        settings = {name: getattr(self, name) for name in COLUMN_SETTINGS}
        columns = columns_among(found, settings, is_predicting=True)
        ((setting, column),) = columns.items()
        requested = Columns(columns, texts=[column] if setting == "text_column" else ())
        for row in rows_given(inputs, requested, self.reading.empty):
            yield Row({setting.removesuffix("_column"): row.values[column]}, row.file, row.line)

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        where = f"{row.file}:{row.line}"
        values: dict[str, Any] = {"tags": None, "spans": None}
        if "tokens" in row.values:
            check_tokens(row, where)
            values["text"], offsets = join_units(row.values["tokens"], self.units)
            values["tags"] = self._plain_tags(row) if "tags" in row.values else None
            if split == "train":
                self._tokens_seen.add(row.values["tokens"])
        else:
            values["text"] = row.values["text"]
            offsets = cut_text(values["text"], self.units)
            if "entities" in row.values:
                given = row.values["entities"]
                if ANSWER in row.values and given is None:  # Prodigy omits them where there are none
                    given = []
                marked = marked_entities(given, values["text"], where, ends_inclusive=self.ends_inclusive)
                self._sources[row.file].ends.update(own.is_inclusive for own in marked if own.spelt)
                values["spans"] = unit_spans(marked, values["text"], offsets, where, has_nested=self.has_nested)
        self._note_types(values, where, split)
        values["offsets"] = [place for unit in offsets for place in unit]
        if "lines" in row.values:
            values["lines"] = row.values["lines"]
        yield Row(values, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        entities: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        encoder = self._encoder()
        for example in train:
            entities.update(kind for _, _, kind in self._spans(example))
            if isinstance(encoder, UnitNumbers):
                seen.update(encoder.names(example.values["text"], _offsets(example)))
                self._speller.count(_spelled(example))
        if not entities:
            found, setting = ", every tag is O", "data.tagged_lines.tag_column or data.tags_column"
            if not self._tokens_seen.num_tokens:
                found, setting = "", "data.entities_column"
            raise DataError(
                f"{self.path}: the training split has no entity{found}. Give rows with entities, or name the column "
                f"that has them ({setting})."
            )
        for kind in sorted(self._types.keys() - entities.keys()):
            log.warning("type %s (found at %s) is not in the training split: never predicted", kind, self._types[kind])
        labels = sorted({*self._types, *entities})
        return {
            "vocabulary": vocabulary_of(seen, self.max_vocabulary, self.min_count),
            "labels": labels,
            "label_counts": [entities[label] for label in labels],
            "has_nested": self.has_nested,
            **self._speller.facts(self.max_vocabulary, self.min_count),
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        text, offsets = example.values["text"], _offsets(example)
        positions = self._encoder().encode(text, offsets, facts["vocabulary"], self.max_length)
        is_one_window = len(positions.window_lengths) == 1
        is_plain = is_one_window and np.array_equal(positions.places, np.arange(len(positions.input_ids)))
        row = {
            "input_ids": positions.input_ids,
            "window_lengths": positions.window_lengths,
            "places": positions.places[:0] if is_plain else positions.places,
            "offsets": np.array(offsets, dtype=np.int32).reshape(-1),
            "text": text,
            **self._speller.columns([_spelled(example)], facts.get("alphabet"), self._layout_of_words),
        }
        if example.values["tags"] is None and example.values["spans"] is None:
            return row
        if self.has_nested and not facts["has_nested"]:
            raise ConfigError("data.has_nested is true, and was false when the model was trained. Set it to false.")
        spans = self._spans(example, is_counted=True)
        return {**row, "spans": np.array(self._numbered(spans, example, facts["labels"]), dtype=np.int32)}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate encoded sentences; see `collate_entities`."""
        return collate_entities(rows, self._encoder().pad_id, has_nested=self.facts()["has_nested"])

    def token_ids(self) -> Mapping[str, int]:
        return self._encoder().token_ids()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        labels = self.facts()["labels"]
        spans = [(start, end, labels[kind]) for start, end, kind in row["spans"].reshape(-1, 3).tolist()]
        target = " ".join(f"{start}:{end}:{kind}" for start, end, kind in spans)
        return Inspected(
            length=len(row["offsets"]) // 2,
            target=target,
            labels=tuple(kind for *_, kind in spans),
            num_windows=len(row["window_lengths"]),
        )

    def _check_settings(self) -> None:
        check_arguments(self)
        for name, needed in (("units", "words"), ("tokenizer", "units")):
            if self.characters_per_word and (found := getattr(self, name)) != needed:
                raise ConfigError(
                    f"data.characters_per_word is {self.characters_per_word}, and data.{name} is {shown(found)}: only "
                    f"words have characters of their own. Set data.{name} to {needed}, or data.characters_per_word to "
                    "0."
                )

    def _layout_of_words(self, texts: list[list[int]]) -> NDArray[np.int32]:
        return in_windows(texts[0], [], self.max_length).input_ids

    def _encoder(self) -> UnitEncoder:
        if self._loaded is None:
            self._loaded = load_unit_encoder(self.tokenizer, lower_case=self.lower_case)
        return self._loaded

    def _file_format(self, source: str, split: Split) -> FileFormat:
        stated, encoding = self.reading.file_format, self.reading.encoding
        return entity_format(source, stated, encoding, is_predicting=split == "predict")

    def _columns(self, source: str, split: Split) -> Mapping[str, str]:
        file_format = self._file_format(source, split)
        settings = {name: getattr(self, name) for name in COLUMN_SETTINGS}
        return entity_columns(source, file_format, settings, self.reading.encoding, is_predicting=split == "predict")

    def _tag_names(self, source: str, columns: Mapping[str, str]) -> tuple[list[str], str]:
        """Names of tags that are numbers, and the file or setting that has them."""
        if self.tag_names:
            return self.tag_names, "data.tag_names"
        return stored_names(source, columns["tags_column"]) if "tags_column" in columns else ([], "")

    def _plain_tags(self, row: Row) -> list[str] | None:
        """The tags of a sentence in one spelling, with a note if theirs is another."""
        given = row.values.get("tags")
        source = self._sources[row.file]
        if given and all(map(is_number, given)):
            given = [tag_of_number(number, *source.names, f"{row.file}:{row.line}") for number in given]
        tags = None if given is None else [*map(plain_label, given)]
        if tags != given:
            source.notes.num_respelt_labels += 1
            source.notes.first_respelt_line = source.notes.first_respelt_line or row.line
        return tags

    def _note_types(self, values: Mapping[str, Any], where: str, split: Split) -> None:
        tags = values["tags"] or ()
        if split == "train" and tags:
            self._evidence.add(tags)
        kinds = [parts[1] for tag in set(tags) if (parts := split_tag(tag))]
        for kind in [*kinds, *(kind for _, _, kind in values["spans"] or ())]:
            self._types.setdefault(kind, where)

    def _spans(self, example: Row, *, is_counted: bool = False) -> list[Span]:
        """The entities of an example. Raises: DataError at an illegal tag that `illegal_tags` refuses."""
        if example.values["tags"] is None:
            return [(start, end, kind) for start, end, kind in example.values["spans"]]
        keeps_broken = self.illegal_tags != "drop"
        spans, faults = read_tags(example.values["tags"], self._scheme(), keeps_broken=keeps_broken)
        source = self._sources[example.file]
        for fault in faults:
            if self.illegal_tags == "refuse" or not fault.can_repair:
                raise DataError(self._refusal(fault, example, source))
        if is_counted and faults:
            source.notes.num_illegal_tags += len(faults)
            source.notes.first_illegal_line = source.notes.first_illegal_line or source.line(example, faults[0].token)
        return spans

    def _refusal(self, fault: Fault, example: Row, source: EntitySource) -> str:
        line = source.line(example, fault.token)
        token = "" if source.has_token_lines or "lines" in example.values else f", token {fault.token + 1}"
        evidence = f" (inferred from {self._evidence})" if self.scheme == "auto" else ""
        accept = ", or set data.illegal_tags to repair or drop," * fault.can_repair
        return (
            f"{example.file}:{line}{token}: {fault.reason}. The scheme is {self._scheme()}{evidence}. "
            f"Correct the tag{accept} or set data.scheme if it is another."
        )

    def _scheme(self) -> Scheme:
        if self._decided is None:
            decided = self._evidence.decide() if self.scheme == "auto" else self.scheme
            if decided is None:
                raise DataError(
                    f"{self.path}: no scheme has all the letters that its tags begin with ({self._evidence}). "
                    f"Convert them to one of {', '.join(ROLES)}."
                )
            log.info("tags are read as %s: %s", decided, self._evidence)
            self._decided = decided
            for source in self._sources.values():
                if "tags_column" in source.columns:
                    source.notes.form += f"; scheme {decided}"
        return self._decided

    def _numbered(self, spans: list[Span], example: Row, labels: list[str]) -> list[int]:
        """First unit, end and type id of each entity, concatenated."""
        if self._type_labels is not labels:
            self._type_labels = labels
            self._type_numbers = {plain_label(label): number for number, label in enumerate(labels)}
        for _, _, kind in spans:
            if kind not in self._type_numbers:
                raise DataError(
                    f"{example.file}:{example.line}: an entity of type {shown(kind)}, which is none of the "
                    f"{len(labels)} types of the model ({first_names(labels)}). Correct it, or train with rows that "
                    f"have it."
                )
        return [number for start, end, kind in spans for number in (start, end, self._type_numbers[kind])]


def _spelled(example: Row) -> list[str]:
    return [example.values["text"][start:end] for start, end in _offsets(example)]


def _offsets(example: Row) -> Offsets:
    places = example.values["offsets"]
    return list(zip(places[::2], places[1::2], strict=True))
