"""Texts and their translations, or any other pairs of a text that is read and one that is written.

Shapes: B examples, S positions of the longest source, T positions of the longest target.
"""

import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, pad
from lightrail.datamodules.batches.blocks import NO_TARGET
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.checking import Remedies
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Row
from lightrail.datamodules.reading.rows import list_for_text, text_value
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.framing import frame_of, framed
from lightrail.project.basics.tokens.learning import load_language_tokenizer, needs_texts
from lightrail.project.basics.tokens.numbering import LanguageTokenizer


@final
class TranslationData(DataModule):
    """A table of sources and targets, or two files of parallel lines.

    Args:
        path: training data; for files of parallel lines their common beginning: `train` with the columns `en` and `de`
            reads `train.en` and `train.de`. To predict, the column of targets may be missing.
        source_column, target_column: names of the columns; `translation.en` is the entry `en` of the column
            `translation`, as hub data sets of translations have it.
        tokenizer: `subwords` (byte pairs, trained on the training split), `characters`, `bytes`, or the name or folder
            of a Hugging Face tokenizer.
        target_tokenizer: tokenizer of the targets. null: one for both sides, trained on both.
        max_vocabulary: maximum number of distinct tokens of a tokenizer, for characters and subwords.
        min_count: minimum count in the training split of a character, or of a pair of subwords, that is a token.
        source_prefix: text before each source that tells a pretrained network what to do, such as "translate English
            to German: ".
        source_language, target_language: codes of the languages for a multilingual Hugging Face tokenizer, such as
            en_XX and de_DE.
        max_length: maximum number of tokens of a source, and of a target. Longer ones are cut, counted and reported.
    """

    length_columns = ("input_ids", "labels")
    remedies = Remedies(length="set a larger data.max_length")

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        source_column: str = "source",
        target_column: str = "target",
        tokenizer: str = "subwords",
        target_tokenizer: str | None = None,
        max_vocabulary: PositiveInt = 8192,
        min_count: NaturalInt = 2,
        source_prefix: str = "",
        source_language: str | None = None,
        target_language: str | None = None,
        max_length: PositiveInt = 256,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(size=None, max_tokens=4096),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.source_column, self.target_column = source_column, target_column
        self.tokenizer, self.target_tokenizer = tokenizer, target_tokenizer
        self.max_vocabulary, self.min_count = max_vocabulary, min_count
        self.source_prefix, self.max_length = source_prefix, max_length
        self.source_language, self.target_language = source_language, target_language
        self.structured = sorted({name.partition(".")[0] for name in (source_column, target_column) if "." in name})
        self.texts = [name for name in (source_column, target_column) if "." not in name]
        self._known: Facts = {}
        self._tokenizers: tuple[LanguageTokenizer, LanguageTokenizer] | None = None
        check_arguments(self)
        if source_column == target_column:
            raise ConfigError(
                f"data.source_column and data.target_column are both {source_column}. Give each its own column."
            )

    def columns(self, split: Split) -> Mapping[str, str] | Sequence[str]:
        columns = {"source_column": self.source_column}
        if split != "predict":
            columns["target_column"] = self.target_column
        if self.structured:
            return list(dict.fromkeys(name.partition(".")[0] for name in columns.values()))
        return columns

    def settings(self) -> Mapping[str, Any]:
        names = (self.tokenizer, self.target_tokenizer)
        digests = [
            None if name is None or needs_texts(name) else load_language_tokenizer(name).digest for name in names
        ]
        return {
            "columns": [self.source_column, self.target_column],
            "tokenizers": [list(names), digests],
            "vocabulary": [self.max_vocabulary, self.min_count],
            "source": [self.source_prefix, self.source_language, self.target_language],
            "max_length": self.max_length,
        }

    def given(self, inputs: Sequence[Any]) -> Iterator[Row]:
        name, _, entry = self.source_column.partition(".")
        return super().given([{name: {entry: own}} if entry and isinstance(own, str) else own for own in inputs])

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        target = None if split == "predict" else self._text(row, self.target_column, "target_column")
        source = self._text(row, self.source_column, "source_column")
        yield Row({"text": source, "target": target}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        """Learn the tokenizers: facts of both, and the tokens that each puts around a text."""
        source, target = self._learned_sides(train)
        target_name = self.target_tokenizer or self.tokenizer
        return {
            "source": {
                "tokenizer": source.facts(),
                "frame": frame_of(source, self.tokenizer, self.source_language),
                "prefix": self.source_prefix,
                "max_length": self.max_length,
            },
            "target": {
                "tokenizer": target.facts(),
                "frame": frame_of(target, target_name, self.target_language, is_target=True),
            },
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        """Return token ids of both sides; a target that is cut has no end."""
        source, target = self._tokenizers_of(facts)
        text, expected = example.values["text"], example.values["target"]
        ids, num_source = framed(
            source.encode(facts["source"]["prefix"] + text), facts["source"]["frame"], self.max_length
        )
        row = {"input_ids": ids, "num_source": num_source, "text": text}
        if expected is None:
            return {**row, "labels": np.zeros(0, np.int32)}
        labels, num_target = framed(
            target.encode(expected), facts["target"]["frame"], self.max_length, is_cut_whole=False
        )
        return {**row, "labels": labels, "num_target": num_target, "target": expected}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad pairs into a batch.

        `input_ids` and `attention_mask` are [B, S]; `labels`, absent to predict, [B, T] with NO_TARGET as padding;
        `text` and, where there are targets, `target` lists of B.
        """
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        num_targets = sum(len(row["labels"]) for row in rows)
        batch = {
            "id": [row["id"] for row in rows],
            "input_ids": pad([row["input_ids"] for row in rows], 0),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "text": [row["text"] for row in rows],
            "num_tokens": int(lengths.sum()) + num_targets,
            "num_targets": num_targets,
        }
        if "target" in rows[0]:
            batch["labels"] = pad([row["labels"] for row in rows], NO_TARGET)
            batch["target"] = [row["target"] for row in rows]
        return batch

    def token_ids(self) -> Mapping[str, int]:
        return self._tokenizers_of(self.facts())[0].token_ids()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        return Inspected(length=max(row["num_source"], row["num_target"]), target=row["target"])

    def describe(self, rows: TokenisedSplit) -> str:
        longer = [
            f"{int((rows.values(name) > self.max_length).sum())} of {len(rows)} {side}"
            for side, name in (("sources", "num_source"), ("targets", "num_target"))
            if name in rows.columns and (rows.values(name) > self.max_length).any()
        ]
        return f"{' and '.join(longer)} are longer than {self.max_length} tokens and are cut" if longer else ""

    def _text(self, row: Row, column: str, setting: str) -> str:
        name, _, entry = column.partition(".")
        value, where = row.values[name], f"{row.file}:{row.line}"
        if entry:
            if not isinstance(value, Mapping) or entry not in value:
                raise DataError(
                    f"{where}: the column {name} has no entry {entry}, which data.{setting}={column} names. It has "
                    f"{', '.join(value) if isinstance(value, Mapping) else 'no entries'}."
                )
            value = text_value(value[entry], where, column)
            if not value or (isinstance(value, str) and value.isspace()):
                raise DataError(f"{where}: {column} is empty. Give it a text, or remove the row.")
        if isinstance(value, list):
            raise list_for_text(row, column, f"data.{setting}")
        return str(value)

    def _learned_sides(self, train: Iterator[Row]) -> tuple[LanguageTokenizer, LanguageTokenizer]:
        if self.target_tokenizer is None:
            both = (text for example in train for text in self._sides(example))
            tokenizer = self._learned(self.tokenizer, both)
            return tokenizer, tokenizer.of_targets()
        # The examples are read once, and memory does not grow with them: targets wait in a file.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as waiting:

            def sources() -> Iterator[str]:
                for source, target in map(self._sides, train):
                    waiting.write(json.dumps(target) + "\n")
                    yield source

            texts = sources()
            source = self._learned(self.tokenizer, texts)
            deque(texts, maxlen=0)  # those that the tokenizer of sources did not have to see
            waiting.seek(0)
            return source, self._learned(self.target_tokenizer, map(json.loads, waiting))

    def _sides(self, example: Row) -> tuple[str, str]:
        return self.source_prefix + example.values["text"], example.values["target"]

    def _learned(self, name: str, texts: Iterable[str]) -> LanguageTokenizer:
        return load_language_tokenizer(name, texts, max_vocabulary=self.max_vocabulary, min_count=self.min_count)

    def _tokenizers_of(self, facts: Facts) -> tuple[LanguageTokenizer, LanguageTokenizer]:
        if self._tokenizers is None or self._known is not facts:
            self._known = facts
            sides = (facts["source"]["tokenizer"], facts["target"]["tokenizer"])
            self._tokenizers = (LanguageTokenizer.from_facts(sides[0]), LanguageTokenizer.from_facts(sides[1]))
        return self._tokenizers
