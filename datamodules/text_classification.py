"""Texts, or pairs of texts, with one or any number of labels each.

Shapes: B examples, N windows, T positions of the longest window, L labels.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, pad
from lightrail.datamodules.batches.sampling import SamplingConfig
from lightrail.datamodules.batches.spelling import NO_WORD, Speller, collate_words
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.checking import Remedies
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Row
from lightrail.datamodules.reading.label_names import LabelNumbers, plain_label
from lightrail.datamodules.reading.rows import text_value
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.tokens.tokenizing import SEPARATOR, PatternTokenizer, Tokenizer, load_tokenizer
from lightrail.project.basics.tokens.truncating import Frame, Layout, Truncation, lay_out

_BETWEEN = " ||| "
"""Separator of the texts of a pair where people read them."""
_LIST_AS_TEXT = re.compile(r"""\s*\[\s*(['"]).*\1\s*\]\s*""", re.DOTALL)
"""A list of texts as JSON or Python write it."""


@final
class TextClassificationData(DataModule):
    """A table of texts and labels; a label is any text, and the training split defines the set of labels.

    Args:
        path: training data; to predict, the column of labels may be missing.
        text_column, label_column: names of the columns.
        pair_column: column of a second text, to classify pairs: the encoder reads both, with a separator between them.
        has_many_labels: a text has any number of labels, or none. Lists, in JSON Lines and Parquet, are kept; any other
            cell is split at `label_separator`.
        label_separator: separator of the labels of a cell, with `has_many_labels`.
        tokenizer: `characters`, `words`, `subwords` (word pieces, trained on the training split), or the name or folder
            of a Hugging Face tokenizer.
        max_length: maximum number of tokens of a text, or of one window of it, special tokens included.
        truncation: part of a longer text that is kept: its `head`, its `tail`, or `head_tail`, a quarter of
            `max_length` from its head and the rest from its end; or all of it in `windows` that overlap by at least a
            quarter. Cut texts are counted and reported.
        max_vocabulary: maximum number of distinct tokens, the most frequent ones; without a Hugging Face tokenizer.
        min_count: a token with a lower count in the training split is unknown; without a Hugging Face tokenizer.
        lower_case: treat A and a as equal; without a Hugging Face tokenizer.
        characters_per_word: maximum number of characters of a word, from its begin and end, for a network with
            `encoder.characters`; they keep their case, and unknown words have them too. 0: none, for other networks.
        sampling: settings for sampling training examples by label; for one label each.
    """

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        pair_column: str | None = None,
        has_many_labels: bool = False,
        label_separator: str = "|",
        tokenizer: str = "characters",
        max_length: PositiveInt = 256,
        truncation: Truncation = "head",
        max_vocabulary: PositiveInt = 50_000,
        min_count: NaturalInt = 2,
        lower_case: bool = True,
        characters_per_word: NaturalInt = 0,
        sampling: SamplingConfig = SamplingConfig(),
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.text_column, self.label_column, self.pair_column = text_column, label_column, pair_column
        self.has_many_labels, self.label_separator = has_many_labels, label_separator
        self.tokenizer, self.max_length, self.truncation = tokenizer, max_length, truncation
        self.max_vocabulary, self.min_count, self.lower_case = max_vocabulary, min_count, lower_case
        self.characters_per_word, self.sampling = characters_per_word, sampling
        self.is_cut = truncation != "windows"
        self.structured = (label_column,) if has_many_labels else ()
        self.texts = [text_column, *([pair_column] if pair_column else [])]
        drawing = "" if has_many_labels else ", data.sampling.method=oversample"
        self.remedies = Remedies(
            length="set data.truncation to head_tail or windows",
            imbalance=f"model.loss.class_weights=balanced{drawing} or model.loss.focal_gamma=2",
        )
        self._loaded: Tokenizer | None = None
        self._speller = Speller(characters_per_word)
        self._label_numbers = LabelNumbers()
        self._check_settings()

    def columns(self, split: Split) -> Mapping[str, str]:
        texts = {"text_column": self.text_column}
        if self.pair_column:
            texts["pair_column"] = self.pair_column
        return texts if split == "predict" else {**texts, "label_column": self.label_column}

    def settings(self) -> Mapping[str, Any]:
        return {
            "columns": [self.text_column, self.pair_column, self.label_column],
            "labels": [self.has_many_labels, self.label_separator],
            "tokenizer": [self.tokenizer, self._tokenizer().digest],
            "vocabulary": [self.max_vocabulary, self.min_count, self.lower_case],
            "max_length": [self.max_length, self.truncation],
            **self._speller.settings(),
        }

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        text, label = row.values[self.text_column], row.values.get(self.label_column)
        values = {"text": text, "label": label if split == "predict" else self._label_or_labels(label, row)}
        if self.pair_column:
            pair = [text, row.values[self.pair_column]]
            values |= {"text": _BETWEEN.join(pair), "pair": pair}
        yield Row(values, row.file, row.line)

    def labels_of(self, example: Row) -> list[str]:
        label = example.values["label"]
        return label if isinstance(label, list) else [] if label is None else [label]

    def learn(self, train: Iterator[Row]) -> Facts:
        labels: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        tokenizer = self._tokenizer()
        for example in train:
            labels.update(map(plain_label, self.labels_of(example)))
            if tokenizer.needs_vocabulary:
                for text in _texts(example):
                    tokens.update(tokenizer.split(text))
                    self._speller.count(self._spelled(text))
        if len(labels) < (1 if self.has_many_labels else 2):
            raise DataError(
                f"{self.path}: the training split has {'one label only' if labels else 'no label'} "
                f"({first_names(list(labels)) or 'all are empty'}). Give rows of at least two, or name another "
                f"data.label_column."
            )
        vocabulary = tokenizer.vocabulary(tokens, self.max_vocabulary, self.min_count)
        is_separated = tokenizer.needs_vocabulary and self.pair_column
        return {
            "vocabulary": [SEPARATOR, *vocabulary] if is_separated else vocabulary,
            "labels": sorted(labels),
            "label_counts": [labels[label] for label in sorted(labels)],
            "has_many_labels": self.has_many_labels,
            **self._speller.facts(self.max_vocabulary, self.min_count),
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        texts, tokenizer = _texts(example), self._tokenizer()
        ids = [tokenizer.numbers(text, facts["vocabulary"]) for text in texts]
        layout = self._layout(ids, tokenizer.frame(is_pair=len(texts) == 2), tokenizer.unknown_id)
        row = {"input_ids": layout.input_ids, "num_tokens": layout.num_tokens, "text": example.values["text"]}
        spelled = [self._spelled(text) for text in texts]
        row |= self._speller.columns(spelled, facts.get("alphabet"), self._layout_of_words)
        if self.pair_column and self._tokenizer().has_segments:
            row["segment_ids"] = layout.segment_ids
        if example.values["label"] is None:
            return row
        if self._label_numbers.labels is not facts["labels"]:
            self._label_numbers = LabelNumbers(facts["labels"])
        where = f"{example.file}:{example.line}"
        numbers = [self._label_numbers.number(label, where) for label in self.labels_of(example)]
        return {**row, "labels": np.array(numbers, np.int32)} if self.has_many_labels else {**row, "label": numbers[0]}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad the windows of texts into a batch.

        `input_ids`, `attention_mask` and, for some tokenizers, `segment_ids` are [N, T]; `text_of_window`, absent if
        N == B, is [N]; `labels`, absent to predict, [B] or, with many labels, [B, L] of 0 and 1; `text` a list of B;
        words and characters as by `collate_words`.
        """
        windows = [self._windows(row["input_ids"]) for row in rows]
        lengths = torch.tensor([len(window) for own in windows for window in own])
        batch: Batch = {
            "id": [row["id"] for row in rows],
            "input_ids": pad([window for own in windows for window in own], self._tokenizer().pad_id),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "text": [row["text"] for row in rows],
            "num_tokens": int(lengths.sum()),
            "num_targets": len(rows),
            **collate_words(rows, lambda _, word_ids: self._windows(word_ids)),
        }
        if len(lengths) > len(rows):
            counts = torch.tensor([len(own) for own in windows])
            batch["text_of_window"] = torch.arange(len(rows)).repeat_interleave(counts)
        if "segment_ids" in rows[0]:
            batch["segment_ids"] = pad([row["segment_ids"] for row in rows], 0)
        if "label" in rows[0]:
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        elif "labels" in rows[0]:
            targets = torch.zeros(len(rows), len(self.facts()["labels"]))
            for target, row in zip(targets, rows, strict=True):
                target[row["labels"].tolist()] = 1.0
            batch["labels"] = targets
        return batch

    def token_ids(self) -> Mapping[str, int]:
        return self._tokenizer().token_ids()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        names = self.facts()["labels"]
        labels = tuple(names[number] for number in (row["labels"] if self.has_many_labels else [row["label"]]))
        num_windows = len(self._windows(row["input_ids"]))
        return Inspected(length=row["num_tokens"], target="|".join(labels), labels=labels, num_windows=num_windows)

    def describe(self, rows: TokenisedSplit) -> str:
        lengths = rows.values("num_tokens")
        num_longer = int((lengths > self.max_length).sum())
        if not num_longer:
            return ""
        longer = f"{100 * num_longer / len(rows):.1f} % of the texts are longer than {self.max_length} tokens"
        if self.is_cut:
            return f"{longer} and are cut ({self.truncation})"
        num_windows = np.ceil(rows.lengths("input_ids") / self.max_length).mean()
        return f"{longer} and are read in windows, {num_windows:.2f} per text on average"

    def _check_settings(self) -> None:
        check_arguments(self)
        if self.has_many_labels and self.sampling.method != "none":
            raise ConfigError(
                f"data.sampling.method={self.sampling.method} balances labels that exclude each other, and with "
                f"data.has_many_labels they do not. Set it to none, and model.loss.class_weights=balanced."
            )
        if self.characters_per_word and self.tokenizer != "words":
            raise ConfigError(
                f"data.characters_per_word is {self.characters_per_word}, and data.tokenizer is "
                f"{shown(self.tokenizer)}: only words have characters of their own. Set data.tokenizer to words, or "
                f"data.characters_per_word to 0."
            )
        if self.pair_column and self.truncation == "windows":
            raise ConfigError("data.truncation=windows reads one text, not a pair. Set head, tail or head_tail.")
        if self.has_many_labels and not self.label_separator:
            raise ConfigError("data.label_separator is empty. Give the separator of the labels of a cell.")

    def _tokenizer(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = load_tokenizer(self.tokenizer, lower_case=self.lower_case)
        return self._loaded

    def _layout(self, texts: list[list[int]], frame: Frame, unknown_id: int) -> Layout:
        if not frame.size(len(texts)) and not any(texts):
            texts[0] = [unknown_id]  # an encoder needs at least one token
        return lay_out(texts, frame, self.max_length, self.truncation)

    def _layout_of_words(self, texts: list[list[int]]) -> NDArray[np.int32]:
        return self._layout(texts, Frame(between=(NO_WORD,)), NO_WORD).input_ids

    def _spelled(self, text: str) -> list[str]:
        tokenizer = self._tokenizer()
        return tokenizer.spelled(text) if self.characters_per_word and isinstance(tokenizer, PatternTokenizer) else []

    def _windows(self, input_ids: np.ndarray) -> Sequence[np.ndarray]:
        is_long = len(input_ids) > self.max_length
        return list(input_ids.reshape(-1, self.max_length)) if is_long else [input_ids]

    def _label_or_labels(self, label: Any, row: Row) -> str | list[str]:
        if not self.has_many_labels:
            if isinstance(label, list):
                raise DataError(
                    f"{row.file}:{row.line}: {len(label)} labels in a list ({first_names(label)}), expected one. "
                    f"Set data.has_many_labels=true if a text may have any number of labels."
                )
            return str(label)
        where = f"{row.file}:{row.line}"
        cell = text_value(label, where, self.label_column) or []
        cells = cell.split(self.label_separator) if isinstance(cell, str) else cell
        if isinstance(cell, str) and _LIST_AS_TEXT.fullmatch(cell):
            raise DataError(
                f"{where}: label {shown(cell)} is a list that was written as text. Write labels separated by "
                f"{shown(self.label_separator)}, or lists in JSON Lines or Parquet."
            )
        labels = sorted({plain_label(name) for name in cells} - {""})
        for name in labels:
            if "|" in name:  # the separator of labels in stored predictions
                raise DataError(f"{where}: label {shown(name)} contains |. Remove it, or separate labels at |.")
        return labels


def _texts(example: Row) -> Sequence[str]:
    return example.values.get("pair") or [example.values["text"]]
