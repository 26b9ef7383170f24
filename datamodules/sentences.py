"""Sentences for embeddings: pairs that mean the same, single texts, or pairs with scores of their similarity.

Shapes: B examples, P texts of each (text, pair, hard negative), T positions.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import torch

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, pad
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.checking import Remedies
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Row
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.tokens.tokenizing import Tokenizer, load_tokenizer
from lightrail.project.basics.tokens.truncating import Truncation, lay_out

Learns = Literal["pairs", "texts", "scores"]
_ENDS = (re.compile(r"[。！？!?]|\.(?=\s)"), re.compile(r"[，、；：,;:]"), re.compile(r"\s"))
"""Ends of sentences, of clauses, and of words."""
_TEXTS = {"text": "input_ids", "pair": "pair_ids", "negative": "negative_ids"}
"""Texts of an example to the column of their token ids."""


@final
class SentenceData(DataModule):
    """Texts whose vectors are learned from what means the same.

    Validation and test are pairs with a score, whose order the similarities should have, or without `score_column`
    pairs of a text and the one that should be found for it among those of the whole split. Only texts are predicted.

    Args:
        path: training data; to predict, texts.
        learns: what training learns from: `pairs` that mean the same; single `texts`, each of which is its own pair
            under another dropout; or the `scores` of pairs.
        text_column, pair_column: columns of the two texts of a pair; with `texts` only `text_column` is learned from. A
            `pair_column` of null divides each text in two, which belong together.
        score_column: column of the score of a pair, any number, higher for more similar ones. null: pairs have none.
        negative_column: column of a text that is similar to the text and means something else, a hard negative; with
            `pairs`. null: none.
        tokenizer: `characters`, `words`, `subwords` (word pieces, trained on the training split), or the name or folder
            of a Hugging Face tokenizer.
        max_length: maximum number of tokens of a text, special tokens included. Longer ones are cut and counted.
        truncation: part of a longer text that is kept: its `head`, its `tail`, or `head_tail`, a quarter of
            `max_length` from its head and the rest from its end.
        max_vocabulary: maximum number of distinct tokens, the most frequent ones; without a Hugging Face tokenizer.
        min_count: a token with a lower count in the training split is unknown; without a Hugging Face tokenizer.
        lower_case: treat A and a as equal; without a Hugging Face tokenizer.
        batch: a batch's texts are negatives of each other, so that more of them are harder.
    """

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        learns: Learns = "pairs",
        text_column: str = "text",
        pair_column: str | None = "pair",
        score_column: str | None = None,
        negative_column: str | None = None,
        tokenizer: str = "words",
        max_length: PositiveInt = 128,
        truncation: Literal["head", "tail", "head_tail"] = "head",
        max_vocabulary: PositiveInt = 50_000,
        min_count: NaturalInt = 2,
        lower_case: bool = True,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(size=64),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.learns, self.text_column, self.pair_column = learns, text_column, pair_column
        self.score_column, self.negative_column = score_column, negative_column
        self.tokenizer, self.max_length = tokenizer, max_length
        self.truncation: Truncation = truncation
        self.max_vocabulary, self.min_count, self.lower_case = max_vocabulary, min_count, lower_case
        self.length_columns = ("input_ids", "pair_ids")
        self.texts = [name for name in (text_column, pair_column, negative_column) if name]
        self.remedies = Remedies(length="set data.truncation to head_tail, or raise data.max_length")
        self._loaded: Tokenizer | None = None
        self._check_settings()

    def columns(self, split: Split) -> Mapping[str, str]:
        columns = {"text_column": self.text_column}
        if split == "predict":
            return columns
        is_scored = self.score_column is not None and (split != "train" or self.learns == "scores")
        is_paired = split != "train" or self.learns != "texts"
        columns |= {"pair_column": self.pair_column} if is_paired and self.pair_column else {}
        columns |= {"score_column": str(self.score_column)} if is_scored else {}
        return columns | ({"negative_column": self.negative_column} if self.negative_column else {})

    def settings(self) -> Mapping[str, Any]:
        return {
            "columns": [self.text_column, self.pair_column, self.score_column, self.negative_column],
            "learns": self.learns,
            "tokenizer": [self.tokenizer, self._tokenizer().digest],
            "vocabulary": [self.max_vocabulary, self.min_count, self.lower_case],
            "max_length": [self.max_length, self.truncation],
        }

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        names = {"pair": "pair_column", "score": "score_column", "negative": "negative_column"}
        columns = self.columns(split)
        own = {name: row.values[columns[setting]] for name, setting in names.items() if setting in columns}
        text = row.values[self.text_column]
        if split == "train" and self.learns == "texts":
            own["pair"] = text
        elif split != "predict" and not self.pair_column:
            text, own["pair"] = halves(text)
        yield Row({"text": text, **own}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        tokens: Counter[str] = Counter()
        tokenizer = self._tokenizer()
        for example in train if tokenizer.needs_vocabulary else ():
            for name in _TEXTS.keys() & example.values.keys():
                tokens.update(tokenizer.split(str(example.values[name])))
        return {
            "vocabulary": tokenizer.vocabulary(tokens, self.max_vocabulary, self.min_count),
            "has_scores": self.score_column is not None,
        }

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        values, row = example.values, dict[str, Any]()
        for name, column in _TEXTS.items():
            if name in values:
                row |= {name: values[name], f"key_of_{name}": key_of(values[name])}
                row[column], row[f"num_{name}"] = self._token_ids(values[name], facts)
        if "pair" not in values:  # a column that batches are measured by
            row["pair_ids"] = np.zeros(0, np.int32)
        return {**row, "target": self._score(example)} if "score" in values else row

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad texts into a batch: all first texts, then all of their pairs, then all hard negatives.

        `input_ids` and `attention_mask` are [P * B, T]; `draws`, [P * B], seeds what is random about each text; `keys`,
        [B, P], are equal for equal texts; `target`, [B], where pairs have scores; `text` and, where it is read, `pair`
        and `negative` lists of B.
        """
        names = [name for name in _TEXTS if name in rows[0]]
        token_ids = [row[_TEXTS[name]] for name in names for row in rows]
        lengths = torch.tensor([len(ids) for ids in token_ids])
        batch: Batch = {
            "id": [row["id"] for row in rows],
            "input_ids": pad(token_ids, self._tokenizer().pad_id),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
            "keys": torch.tensor([[row[f"key_of_{name}"] for name in names] for row in rows]),
            "draws": torch.tensor([draw_of(row, name) for name in names for row in rows]),
            **{name: [row[name] for row in rows] for name in names},
            "num_tokens": int(lengths.sum()),
            "num_targets": len(rows),
        }
        if "target" in rows[0]:
            batch["target"] = torch.tensor([row["target"] for row in rows], dtype=torch.float64)
        return batch

    def token_ids(self) -> Mapping[str, int]:
        return self._tokenizer().token_ids()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        target = "" if "target" not in row else f"{row['target']:g}"
        return Inspected(length=max(row["num_text"], row.get("num_pair", 0)), target=target)

    def describe(self, rows: TokenisedSplit) -> str:
        counted = [rows.values(f"num_{name}") for name in _TEXTS if f"num_{name}" in rows.columns]
        share = np.mean([(own > self.max_length).mean() for own in counted]) if len(rows) else 0
        return f"{100 * share:.1f} % of the texts are longer than {self.max_length} tokens and are cut" if share else ""

    def _check_settings(self) -> None:
        check_arguments(self)
        if self.pair_column is None and (self.learns != "pairs" or self.score_column):
            raise ConfigError(
                "data.pair_column is null, which divides each text into a pair: that is for data.learns=pairs, without "
                "data.score_column. Name the column of the second texts."
            )
        if self.learns == "scores" and self.score_column is None:
            raise ConfigError("data.learns is scores, and data.score_column is null. Name the column of the scores.")
        if self.negative_column and (self.learns != "pairs" or self.score_column):
            raise ConfigError(
                "data.negative_column is for pairs without scores: set data.learns=pairs and leave data.score_column "
                "out, or leave data.negative_column out."
            )
        has_others = self.learns == "texts" or (self.score_column and self.learns == "pairs")
        if has_others and not (self.validation_path and self.test_path):
            raise ConfigError(
                f"data.learns is {self.learns}, and evaluation needs {'scored ' * bool(self.score_column)}pairs, "
                f"which data.path has none of. Set data.validation_path and data.test_path."
            )
        columns = [own for own in (self.text_column, self.pair_column, self.negative_column, self.score_column) if own]
        if len(set(columns)) < len(columns):
            raise ConfigError(f"data: the columns {', '.join(columns)} are not all different. Give each its own.")

    def _tokenizer(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = load_tokenizer(self.tokenizer, lower_case=self.lower_case)
        return self._loaded

    def _token_ids(self, text: str, facts: Facts) -> tuple[np.ndarray, int]:
        """Return the token ids of a text, and their number before it is cut."""
        tokenizer = self._tokenizer()
        frame, ids = tokenizer.frame(is_pair=False), tokenizer.numbers(text, facts["vocabulary"])
        if not frame.size(1) and not ids:
            ids = [tokenizer.unknown_id]  # an encoder needs at least one token
        layout = lay_out([ids], frame, self.max_length, self.truncation)
        return layout.input_ids, layout.num_tokens

    def _score(self, example: Row) -> float:
        value = example.values["score"]
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise DataError(
                f"{example.file}:{example.line}: {self.score_column} is {shown(value)}, which is no number. Give one, "
                f"higher for more similar texts, or name another data.score_column."
            )
        return score


def halves(text: str) -> tuple[str, str]:
    """Divide a text in two at the end of a sentence in its middle half, else of a clause or word, else in its middle.

    A text of one character is both. Such parts as pairs: K. Lee et al. (2019), "Latent Retrieval for Weakly Supervised
    Open Domain Question Answering".

    >>> halves("One two. Three four. Five."), halves("abcd"), halves("a")
    (('One two.', 'Three four. Five.'), ('ab', 'cd'), ('a', 'a'))
    """
    middle = len(text) / 2
    for ends in _ENDS:
        places = [found.end() for found in ends.finditer(text) if middle / 2 <= found.end() <= 3 * middle / 2]
        if places:
            place = min(places, key=lambda own: abs(own - middle))
            first, second = text[:place].strip(), text[place:].strip()
            if first and second:
                return first, second
    if len(text) < 2:
        return text, text
    return text[: len(text) // 2], text[len(text) // 2 :]


def key_of(text: str) -> int:
    """Return a number that is equal for equal texts, and differs for others but once in 2^63 pairs."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def draw_of(row: Mapping[str, Any], name: str) -> int:
    """Return a number that seed, epoch, example and the name of one of its texts decide on."""
    return key_of(repr((*row.get("draw_seed", (row["id"],)), name)))
