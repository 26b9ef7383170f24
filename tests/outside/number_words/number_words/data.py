"""Numbers, how they are written in words, and how much each matters.

Shapes: B examples, T positions of the longest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, pad
from lightrail.datamodules.reading import Row
from lightrail.project.basics.errors import DataError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

NO_TARGET = -100


@final
class NumberData(DataModule):
    """A table with the columns `number`, `words` and `weight`: 21, "twenty one", 1.5.

    Args:
        path: training data, and what the other splits are taken from when they have no source of their own.
    """

    length_unit = "characters"
    is_cut = False

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self._tokenizer: LanguageTokenizer | None = None
        self._tokenized: Facts = {}

    def columns(self, split: Split) -> Sequence[str]:
        return ("number",) if split == "predict" else ("number", "words", "weight")

    def settings(self) -> Mapping[str, Any]:
        return {}

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        yield Row({"text": row.values["number"].strip(), **row.values}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        """The tokenizer of all characters, and the mean of the weights, which scales the loss."""
        examples = list(train)
        texts = [f"{example.values['text']}={example.values['words']}" for example in examples]
        tokenizer = load_language_tokenizer("characters", texts, max_vocabulary=200, min_count=1)
        return {"tokenizer": tokenizer.facts(), "mean_weight": float(np.mean([weight_of(own) for own in examples]))}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        """Number the characters of `21=twenty one`; what comes after the sign is to be written."""
        tokenizer = self._tokenizer_of(facts)
        prompt = [tokenizer.start_id, *tokenizer.encode(f"{example.values['text']}=").tolist()]
        words = example.values.get("words")
        answer = [] if words is None else [*tokenizer.encode(words.strip()).tolist(), tokenizer.end_id]
        encoded: dict[str, Any] = {
            "input_ids": np.array(prompt + answer[:-1], np.int32),
            "labels": np.array([NO_TARGET] * (len(prompt) - 1) + (answer or [NO_TARGET]), np.int32),
            "text": example.values["text"],
            "words": (words or "").strip(),
        }
        return encoded if words is None else {**encoded, "weight": weight_of(example)}

    def _tokenizer_of(self, facts: Facts) -> LanguageTokenizer:
        """Build the tokenizer once, not for each example."""
        if self._tokenizer is None or self._tokenized is not facts:
            self._tokenizer, self._tokenized = LanguageTokenizer.from_facts(facts["tokenizer"]), facts
        return self._tokenizer

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """`input_ids` and `labels`, [B, T]; `weight`, a list of B numbers, where there are answers."""
        batch: Batch = {name: [row[name] for row in rows] for name in ("id", "text", "words")}
        if "weight" in rows[0]:
            batch["weight"] = [row["weight"] for row in rows]
        batch["input_ids"] = pad([row["input_ids"] for row in rows], 0)
        batch["labels"] = pad([row["labels"] for row in rows], NO_TARGET)
        batch["num_tokens"] = sum(len(row["input_ids"]) for row in rows)
        batch["num_targets"] = int((batch["labels"] != NO_TARGET).sum())
        return batch


def weight_of(example: Row) -> float:
    """Read the weight of an example. Raises: DataError naming file and line."""
    try:
        return float(example.values["weight"])
    except ValueError as error:
        raise DataError(
            f"{example.file}:{example.line}: weight is {example.values['weight']!r}. Give a number."
        ) from error
