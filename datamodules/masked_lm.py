"""Texts for masked language models: some of their tokens are hidden, and are to be predicted from the others.

Shapes: B examples, T positions of the longest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, MeasuredRows, pad
from lightrail.datamodules.batches.blocks import NO_TARGET
from lightrail.datamodules.batches.masking import MaskingConfig, MaskTokens
from lightrail.datamodules.batches.text_pieces import TextPieces
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.cache.building import cache_folder
from lightrail.datamodules.reading import Row
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.tokenizing import (
    FIRST,
    MASK,
    PAD,
    UNKNOWN,
    Located,
    PretrainedTokenizer,
    Tokenizer,
    load_tokenizer,
)
from lightrail.project.basics.tokens.words import WordFinder


@final
class MaskedLMData(DataModule):
    """Texts of which some tokens are masked, to be predicted from all others.

    Nothing is cut: a text of more than `max_length` positions is read as several consecutive examples of about equal
    length. Masks of training examples are other ones in each epoch; those of validation and test examples are always
    the same, for any seed. To predict, no token is masked but those that a text has as [MASK], or as the mask token of
    a Hugging Face tokenizer.

    Args:
        path: training data: lines of plain text, or a column of a table; to predict, texts with masks.
        text_column: name of the column of the text, in formats with columns.
        tokenizer: `characters`, `words`, `subwords` (word pieces, trained on the training split), or the name or folder
            of a Hugging Face tokenizer with a mask token.
        masking: settings for masking tokens.
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
        tokenizer: str = "characters",
        masking: MaskingConfig = MaskingConfig(),
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
        self.text_column, self.tokenizer, self.masking = text_column, tokenizer, masking
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
        }

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
                "next_sentence": False,
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
        return {
            "vocabulary": [MASK, *vocabulary],
            "tokenizer": None,
            "mask_token": MASK,
            "special_ids": [PAD, UNKNOWN, FIRST],
            "next_sentence": False,
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
        return row

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        frame_size = self._tokenizer.frame(is_pair=False).size(1)
        if self.max_length <= frame_size:
            raise ConfigError(
                f"data.max_length is {self.max_length}, and the tokenizer's special tokens alone take {frame_size}. "
                "Increase it."
            )
        return TextPieces(rows, self.max_length - frame_size, frame_size=frame_size, is_masked=split != "predict")

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Mask rows, and pad them into a batch.

        `input_ids` (what the network reads), `attention_mask` and, for some tokenizers, `segment_ids` are [B, T].
        `is_target` [B, T] marks the masked places, `labels` [B, T] has their tokens and NO_TARGET elsewhere; to
        predict, it marks the mask tokens of the texts, and there are no labels. `text` is a list of B.
        """
        examples = [self._masked(row) for row in rows]
        lengths = torch.tensor([len(ids) for ids, _, _ in examples])
        targets = [ids[is_target] for (_, is_target, ids) in examples]
        batch: Batch = {
            "id": [row["id"] for row in rows],
            "input_ids": pad([read for read, _, _ in examples], self._tokenizer.pad_id),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "is_target": pad([is_target for _, is_target, _ in examples], 0).bool(),
            "text": [row["text"] for row in rows],
            "num_tokens": int(lengths.sum()),
            "num_targets": sum(map(len, targets)),
        }
        if rows[0]["is_masked"]:
            batch["labels"] = pad([np.where(is_target, ids, NO_TARGET) for _, is_target, ids in examples], NO_TARGET)
        return batch

    def token_ids(self) -> Mapping[str, int]:
        return self._tokenizer.token_ids()

    def describe(self, rows: TokenisedSplit) -> str:
        sizes = rows.lengths("input_ids")
        num_longer = int((sizes > self.max_length - self._tokenizer.frame(is_pair=False).size(1)).sum())
        found = f"{int(sizes.sum())} tokens in {len(rows)} texts"
        if num_longer:
            found += f", of which {num_longer} are longer than {self.max_length} tokens and read in pieces"
        return found

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
            mask_id, ids = FIRST, list(range(FIRST, FIRST + len(facts["vocabulary"])))
        special = np.array(facts["special_ids"])
        return MaskTokens(mask_id, special, np.setdiff1d(ids, special))

    def _located(self, text: str, vocabulary: list[str]) -> Located:
        tokenizer = self._tokenizer
        if isinstance(tokenizer, PretrainedTokenizer) or MASK not in text:
            return tokenizer.located(text, vocabulary)
        ids, read, offsets = list[int](), "", list[tuple[int, int]]()
        for number, part in enumerate(text.split(MASK)):
            if number:
                ids.append(FIRST)
                offsets.append((len(read), len(read) + len(MASK)))
                read += MASK
            own = tokenizer.located(part, vocabulary)
            ids += own.ids
            offsets += [(start + len(read), end + len(read)) for start, end in own.offsets]
            read += own.text
        return Located(ids, read, offsets)

    def _masked(self, row: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
        """Return what the network reads, which places are to be predicted, and the tokens, with special ones around."""
        ids, tokens = row["input_ids"], self._mask_tokens
        frame = self._tokenizer.frame(is_pair=False)
        if row["is_masked"]:
            generator = np.random.default_rng(row["draw_seed"])
            read, is_target = tokens.mask(ids, row.get("words"), self.masking, generator)
        else:
            read, is_target = ids, ids == tokens.mask_id
        around = np.array(frame.before, np.int64), np.array(frame.after, np.int64)
        whole, framed = (np.concatenate([around[0], own, around[1]]) for own in (ids, read))
        return framed, np.pad(is_target, (len(around[0]), len(around[1]))), whole
