"""Texts for masked language models: some of their tokens are hidden, and are to be predicted from the others.

Shapes: B examples, T positions of the longest.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, MeasuredRows, pad
from lightrail.datamodules.batches.blocks import NO_TARGET
from lightrail.datamodules.batches.masking import MaskingConfig, MaskTokens
from lightrail.datamodules.batches.sentence_pairs import Part, SentencePairs, joined_words
from lightrail.datamodules.batches.text_pieces import TextPieces
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.cache.building import cache_folder
from lightrail.datamodules.reading import ReadingNotes, Row, read_rows
from lightrail.datamodules.reading.sources import format_of
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.tokenizing import (
    FIRST,
    MASK,
    PAD,
    SEPARATOR,
    UNKNOWN,
    Located,
    PretrainedTokenizer,
    Tokenizer,
    load_tokenizer,
)
from lightrail.project.basics.tokens.words import WordFinder, sentence_starts

log = logging.getLogger(__name__)

_BETWEEN = " ||| "
"""Separator of the parts of a pair where people read them."""


class _Example(NamedTuple):
    """An example with masks drawn, and special tokens around it; each array is [T]."""

    read: NDArray[np.integer]
    """Token ids that the network reads."""
    ids: NDArray[np.integer]
    """Token ids before masking."""
    is_target: NDArray[np.bool_]
    segments: NDArray[np.integer]
    is_next: int
    text: str


@final
class MaskedLMData(DataModule):
    """Texts of which some tokens are masked, to be predicted from all others.

    Nothing is cut: a text of more than `max_length` positions is read as several consecutive examples of about equal
    length. Masks of training examples are other ones in each epoch; those of validation and test examples are always
    the same, for any seed. To predict, no token is masked but those that a text has as [MASK], or as the mask token of
    a Hugging Face tokenizer.

    With `next_sentence` an example is a pair: part of a text, and either what follows it there or, in half of the
    pairs, part of another text of the same split, drawn as masks are. Texts of one sentence then give no example.

    Args:
        path: training data: plain text, or a column of a table; to predict, lines or rows with masks.
        text_column: name of the column of the text, in formats with columns.
        document: unit of plain text that is one text: a `line`, or a `paragraph` (lines up to a blank one). In tables
            each row is one.
        tokenizer: `characters`, `words`, `subwords` (word pieces, trained on the training split), or the name or folder
            of a Hugging Face tokenizer with a mask token.
        masking: settings for masking tokens.
        next_sentence: give pairs, to learn also whether the second part of a pair follows the first. Sentences end at
            。！？!?…, at a full stop before a space, and with a line.
        max_length: maximum number of positions of an example, special tokens included.
        max_vocabulary: maximum number of distinct tokens, the most frequent ones; without a Hugging Face tokenizer.
        min_count: a token with a lower count in the training split is unknown; without a Hugging Face tokenizer.
        lower_case: treat A and a as equal; without a Hugging Face tokenizer.
    """

    is_cut = False

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        text_column: str = "text",
        document: Literal["line", "paragraph"] = "line",
        tokenizer: str = "characters",
        masking: MaskingConfig = MaskingConfig(),
        next_sentence: bool = False,
        max_length: PositiveInt = 256,
        max_vocabulary: PositiveInt = 50_000,
        min_count: NaturalInt = 2,
        lower_case: bool = True,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.text_column, self.document, self.tokenizer = text_column, document, tokenizer
        self.masking, self.next_sentence = masking, next_sentence
        self.max_length, self.max_vocabulary, self.min_count = max_length, max_vocabulary, min_count
        self.lower_case, self.texts = lower_case, [text_column]
        self._word_finder = WordFinder(cache_folder())
        check_arguments(self)
        masking.check()

    def columns(self, split: Split) -> Mapping[str, str]:
        return {"text_column": self.text_column}

    def settings(self) -> Mapping[str, Any]:
        return {
            "column": self.text_column,
            "tokenizer": [self.tokenizer, self._tokenizer.digest],
            "vocabulary": [self.max_vocabulary, self.min_count, self.lower_case],
            "whole_words": self.masking.whole_words,
            **({"document": self.document} if self.document != "line" else {}),
            **({"next_sentence": True} if self.next_sentence else {}),
        }

    def read(self, source: str, split: Split, notes: ReadingNotes) -> Iterator[Row]:
        """Yield the records of a source, lines of a paragraph as one."""
        if split == "predict" or self.document == "line" or not self._is_plain_text(source):
            yield from super().read(source, split, notes)
            return
        lines = read_rows(
            source,
            columns=self.columns(split),
            encoding=self.reading.encoding,
            file_format="txt",
            empty="keep",
            notes=notes,
        )
        for is_blank, group in itertools.groupby(lines, lambda row: not row.values[self.text_column].strip()):
            if not is_blank:
                own = list(group)
                text = "\n".join(row.values[self.text_column] for row in own)
                yield Row({self.text_column: text}, own[0].file, own[0].line)

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        yield Row({"text": row.values[self.text_column]}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        tokenizer = self._tokenizer
        if isinstance(tokenizer, PretrainedTokenizer):
            return {
                "vocabulary": [],
                "tokenizer": load_language_tokenizer(self.tokenizer).facts(),
                "mask_token": tokenizer.tokenizer.mask_token,
                "special_ids": sorted(tokenizer.tokenizer.all_special_ids),
                "next_sentence": self.next_sentence,
            }
        tokens: Counter[str] = Counter()
        for example in train:
            for part in example.values["text"].split(MASK):
                tokens.update(tokenizer.split(part))
        if not (vocabulary := tokenizer.vocabulary(tokens, self.max_vocabulary, self.min_count)):
            raise DataError(
                f"{self.path}: no token occurs {self.min_count} times in the training split, so that all are unknown. "
                "Give more text, or decrease data.min_count."
            )
        added = [SEPARATOR, MASK] if self.next_sentence else [MASK]
        return {
            "vocabulary": [*added, *vocabulary],
            "tokenizer": None,
            "mask_token": MASK,
            "special_ids": [PAD, UNKNOWN, *range(FIRST, FIRST + len(added))],
            "next_sentence": self.next_sentence,
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        text = example.values["text"]
        located = self._located(text, facts["vocabulary"])
        if not located.ids and not self._tokenizer.frame(is_pair=False).size(1):
            located = Located([UNKNOWN], located.text, [(0, len(located.text))])  # a network needs at least one token
        row = {
            "input_ids": np.array(located.ids, np.int32),
            "starts": np.array([start for start, _ in located.offsets], np.int32),
            "text": text if len(text) == len(located.text) else located.text,  # of some capitals two are in lower case
        }
        if self.masking.whole_words:
            row["words"] = self._word_finder.words_of_tokens(located.text, located.offsets)
        if self.next_sentence:
            row["sentences"] = np.unique(np.searchsorted(row["starts"], sentence_starts(located.text)))
        return row

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        is_pair = self.next_sentence and split != "predict"
        frame_size = self._tokenizer.frame(is_pair=is_pair).size(1 + is_pair)
        room = self.max_length - frame_size
        if room < 1 + is_pair:
            raise ConfigError(
                f"data.max_length is {self.max_length}, and the tokenizer's special tokens alone take {frame_size}. "
                "Increase it."
            )
        if not is_pair:
            return TextPieces(rows, room, frame_size=frame_size, is_masked=split != "predict")
        own = {"validation": self.validation_path, "test": self.test_path}.get(split) or self.path
        pairs = SentencePairs(rows, room, frame_size=frame_size, name=f"{own}, {split} split")
        if pairs.num_single:
            log.warning("%s: %d of %d texts have one sentence, and give no pair", split, pairs.num_single, len(rows))
        return pairs

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Mask rows, and pad them into a batch.

        `input_ids` (what the network reads), `attention_mask` and, for some tokenizers, `segment_ids` are [B, T].
        `is_target` [B, T] marks the masked places, `labels` [B, T] has their tokens and NO_TARGET elsewhere; to
        predict, it marks the mask tokens of the texts, and there are no labels. `is_next` [B], of pairs, is 1 where the
        second part follows the first, and 0 where it is of another text. `text` is a list of B.
        """
        examples = [self._example(row) for row in rows]
        lengths = torch.tensor([len(own.read) for own in examples])
        batch: Batch = {
            "id": [row["id"] for row in rows],
            "input_ids": pad([own.read for own in examples], self._tokenizer.pad_id),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "is_target": pad([own.is_target for own in examples], 0).bool(),
            "text": [own.text for own in examples],
            "num_tokens": int(lengths.sum()),
            "num_targets": sum(int(own.is_target.sum()) for own in examples),
        }
        if rows[0]["is_masked"]:
            batch["labels"] = pad([np.where(own.is_target, own.ids, NO_TARGET) for own in examples], NO_TARGET)
        if "first" in rows[0]:
            batch["is_next"] = torch.tensor([own.is_next for own in examples])
            if self._tokenizer.has_segments:
                batch["segment_ids"] = pad([own.segments for own in examples], 0)
        return batch

    def token_ids(self) -> Mapping[str, int]:
        return self._tokenizer.token_ids()

    def describe(self, rows: TokenisedSplit) -> str:
        sizes = rows.lengths("input_ids")
        num_longer = int((sizes > self.max_length - self._tokenizer.frame(is_pair=False).size(1)).sum())
        longer = f", of which {num_longer} are longer than {self.max_length} and read in pieces" if num_longer else ""
        return f"{int(sizes.sum())} tokens in {len(rows)} texts{longer}"

    def _is_plain_text(self, source: str) -> bool:
        if self.reading.file_format != "auto":
            return self.reading.file_format == "txt"
        return Path(source).is_file() and format_of(source) == "txt"

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = load_tokenizer(self.tokenizer, lower_case=self.lower_case)
        if isinstance(tokenizer, PretrainedTokenizer) and tokenizer.tokenizer.mask_token is None:
            raise ConfigError(
                f"data.tokenizer: {shown(self.tokenizer, 200)} has no mask token, which stands for a token to be "
                "predicted. Choose one that has, such as that of a BERT, or characters, words or subwords."
            )
        return tokenizer

    @cached_property
    def _mask_tokens(self) -> MaskTokens:
        facts, tokenizer = self.facts(), self._tokenizer
        if isinstance(tokenizer, PretrainedTokenizer):
            mask_id, ids = tokenizer.tokenizer.mask_token_id, sorted(tokenizer.token_ids().values())
        else:
            mask_id = FIRST + facts["vocabulary"].index(MASK)
            ids = list(range(FIRST, FIRST + len(facts["vocabulary"])))
        special = np.array(facts["special_ids"])
        return MaskTokens(mask_id, special, np.setdiff1d(ids, special))

    def _located(self, text: str, vocabulary: list[str]) -> Located:
        tokenizer = self._tokenizer
        if isinstance(tokenizer, PretrainedTokenizer) or MASK not in text:
            return tokenizer.located(text, vocabulary)
        ids, read, offsets = list[int](), "", list[tuple[int, int]]()
        for number, part in enumerate(text.split(MASK)):
            if number:
                ids.append(FIRST + vocabulary.index(MASK))
                offsets.append((len(read), len(read) + len(MASK)))
                read += MASK
            own = tokenizer.located(part, vocabulary)
            ids += own.ids
            offsets += [(start + len(read), end + len(read)) for start, end in own.offsets]
            read += own.text
        return Located(ids, read, offsets)

    def _example(self, row: Mapping[str, Any]) -> _Example:
        """Draw the second part of a pair and the masks of a row, and put special tokens around its parts."""
        generator, is_next = np.random.default_rng(row["draw_seed"]), 0
        parts = [row["first"] if "first" in row else Part(row["input_ids"], row.get("words"), row["text"])]
        if "draw_second" in row:
            second, is_next = row["draw_second"](generator)
            parts.append(second)
        ids = np.concatenate([part.input_ids for part in parts]).astype(np.int64)
        if row["is_masked"]:
            read, is_target = self._mask_tokens.mask(ids, joined_words(parts), self.masking, generator)
        else:
            read, is_target = ids, ids == self._mask_tokens.mask_id
        frame = self._tokenizer.frame(is_pair=len(parts) == 2)
        around, segments = map(np.array, frame.join([part.input_ids.tolist() for part in parts]))
        is_second = np.arange(len(ids)) >= len(parts[0].input_ids)
        places = len(frame.before) + np.arange(len(ids)) + is_second * len(frame.between)
        framed, marks = around.copy(), np.zeros(len(around), np.bool_)
        framed[places], marks[places] = read, is_target
        return _Example(framed, around, marks, segments, is_next, _BETWEEN.join(part.text for part in parts))
