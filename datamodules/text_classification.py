"""Texts with one label each."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from datamodules.base import DataModule, Facts, Inspected, ReadingConfig, Split, SplitConfig
from datamodules.batching import Batch, BatchConfig
from datamodules.collating import pad
from datamodules.reading import Row
from datamodules.tokenizing import Tokenizer, load_tokenizer, vocabulary_of
from project.errors import ConfigError, DataError


@final
class TextClassificationData(DataModule):
    """A table of texts and labels; a label is any text, and those of the training split are the ones there are.

    Args:
        path: training data; to predict, the column of labels may be missing.
        text_column, label_column: names of the columns.
        tokenizer: `characters`, `words`, or the name or folder of a Hugging Face tokenizer.
        max_length: most tokens of a text; the rest is cut off, counted and reported.
        max_vocabulary: most distinct tokens, the most frequent ones; without a Hugging Face tokenizer.
        min_count: a token seen less often in the training split is unknown; without a Hugging Face tokenizer.
        lower_case: whether A and a are the same; without a Hugging Face tokenizer.
    """

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        tokenizer: str = "characters",
        max_length: int = 256,
        max_vocabulary: int = 50_000,
        min_count: int = 2,
        lower_case: bool = True,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        if max_length < 1 or max_vocabulary < 1:
            raise ConfigError(
                f"data.max_length is {max_length} and data.max_vocabulary {max_vocabulary}. Give at least 1 for each."
            )
        self.text_column, self.label_column = text_column, label_column
        self.tokenizer, self.max_length = tokenizer, max_length
        self.max_vocabulary, self.min_count, self.lower_case = max_vocabulary, min_count, lower_case
        self._loaded: Tokenizer | None = None

    def columns(self, split: Split) -> Mapping[str, str]:
        columns = {"text_column": self.text_column, "label_column": self.label_column}
        return {"text_column": self.text_column} if split == "predict" else columns

    def settings(self) -> Mapping[str, Any]:
        return {
            "columns": [self.text_column, self.label_column],
            "tokenizer": [self.tokenizer, self._tokenizer().digest],
            "vocabulary": [self.max_vocabulary, self.min_count, self.lower_case],
            "max_length": self.max_length,
        }

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        values = {"text": row.values[self.text_column], "label": row.values.get(self.label_column)}
        yield Row(values, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        labels: set[str] = set()
        tokens: Counter[str] = Counter()
        tokenizer = self._tokenizer()
        for example in train:
            labels.add(example.values["label"])
            if tokenizer.needs_vocabulary:
                tokens.update(tokenizer.split(example.values["text"]))
        if len(labels) < 2:
            raise DataError(
                f"{self.path}: the training split has one label only ({', '.join(labels)}). "
                f"Give rows of at least two, or name another data.label_column."
            )
        return {"vocabulary": vocabulary_of(tokens, self.max_vocabulary, self.min_count), "labels": sorted(labels)}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        ids = self._tokenizer().encode(example.values["text"], facts["vocabulary"])
        row = {
            "input_ids": np.array(self._tokenizer().cut(ids, self.max_length), dtype=np.int32),
            "num_tokens": len(ids),
            "text": example.values["text"],
        }
        label = example.values["label"]
        return row if label is None else {**row, "label": self._label_number(label, example, facts["labels"])}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids` and `attention_mask` are [B, T], `labels` (absent to predict) [B], `text` a list of B."""
        input_ids = pad([row["input_ids"] for row in rows], self._tokenizer().pad_id)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch = {
            "id": [row["id"] for row in rows],
            "input_ids": input_ids,
            "attention_mask": torch.arange(input_ids.shape[1]) < lengths[:, None],
            "text": [row["text"] for row in rows],
            "num_tokens": int(lengths.sum()),
            "num_targets": len(rows),
        }
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])} if "label" in rows[0] else batch

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        label = self.facts()["labels"][row["label"]]
        return Inspected(length=row["num_tokens"], target=label, labels=(label,))

    def _tokenizer(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = load_tokenizer(self.tokenizer, lower_case=self.lower_case)
        return self._loaded

    def _label_number(self, label: str, example: Row, labels: list[str]) -> int:
        if label not in labels:
            known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
            raise DataError(
                f"{example.file}:{example.line}: label {label!r} is none of the {len(labels)} that the training split "
                f"has ({known}). Fix the label, or add rows with it to the training data."
            )
        return labels.index(label)
