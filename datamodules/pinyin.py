"""Pinyin to hanzi: syllables as typed on a keyboard, and the sentence that they stand for."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, final

import numpy as np

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, MeasuredRows, pad
from lightrail.datamodules.cache import TokenisedSplit
from lightrail.datamodules.checking.facts import Inspected, SplitFacts
from lightrail.datamodules.reading import Row
from lightrail.datamodules.typed.cutting import is_cut, likeliest_cut
from lightrail.datamodules.typed.forms import TypedFormsConfig, TypedRows, as_typed, typed_candidates
from lightrail.datamodules.typed.lattice import Edge, TypingConfig, typed_lattice
from lightrail.datamodules.typed.readings import HANZI as HANZI
from lightrail.datamodules.typed.readings import hanzi_remarks
from lightrail.datamodules.typed.spelling import normalised
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError, shown

SENTENCE = re.compile(r"[^。！？；!?;\n]+[。！？；!?;]*[”’」』）)]*")
PAD, UNKNOWN = 0, 1
_TOKEN = re.compile("( |[^ ]+)(?: |$)")
"""A token of a joined sentence; a space may be one."""
NOT_A_TARGET, NOT_A_CANDIDATE = -1, -2


@final
class PinyinData(DataModule):
    """Sentences with one token per character: a toneless syllable for a hanzi, any other character itself.

    Plain Chinese text is split into sentences and converted to syllables by pypinyin. A file with the column
    `syllables` (tokens separated by spaces, one for each character of `text`) keeps its own readings, as a test set
    with manual readings needs. Sentences without a hanzi are omitted.

    Args:
        path: plain text, one or more sentences per line; or a table with the column `text`, and perhaps `syllables`.
        has_syllables: read the table's column `syllables`, which must agree with `text` in length.
        max_length: maximum length of a piece, in characters. A longer sentence is split into pieces, never truncated.
        max_other: number of characters other than hanzi (punctuation, digits, letters) that are distinct tokens.
        drop_similar: where repeats are dropped, also drop sentences that differ from another in punctuation, digits and
            letters alone.
        typing: how text to predict is read whose syllables are not separated, such as `woaibj`.
        forms: how often syllables of training sentences are typed otherwise, such as by initials alone.
    """

    length_unit = "characters"
    texts = ("text", "syllables")
    no_examples = "and no sentence has a hanzi (a Chinese character)"

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        has_syllables: bool = False,
        max_length: PositiveInt = 128,
        max_other: NaturalInt = 100,
        drop_similar: bool = False,
        typing: TypingConfig = TypingConfig(),
        forms: TypedFormsConfig = TypedFormsConfig(),
        split: SplitConfig = SplitConfig(validation_fraction=0.02, test_fraction=0.03, drop_repeats=True),
        reading: ReadingConfig = ReadingConfig(empty="skip"),
        batch: BatchConfig = BatchConfig(size=None, max_tokens=2048),
    ) -> None:
        super().__init__(
            path=path,
            validation_path=validation_path,
            test_path=test_path,
            split=split,
            reading=reading,
            batch=batch,
        )
        self.has_syllables, self.max_length, self.max_other = has_syllables, max_length, max_other
        self.drop_similar, self.typing, self.forms = drop_similar, typing, forms
        if drop_similar:
            self.compared = _hanzi_of
        check_arguments(self)
        forms.check()
        self._numbered: Facts = {}
        self._numbers = _Numbers({}, {}, {})

    def columns(self, split: Split) -> Sequence[str]:
        if not self.has_syllables:
            return ("text",)
        return ("syllables",) if split == "predict" else ("text", "syllables")

    def settings(self) -> Mapping[str, Any]:
        return {
            "has_syllables": self.has_syllables,
            **({"spelling": 2} if self.has_syllables else {}),  # 2: of `normalised` since tones are removed
            "max_length": self.max_length,
            "max_other": self.max_other,
            "pypinyin": _pypinyin_version(),
            **({"drop_similar": True} if self.drop_similar else {}),
            **({"forms": asdict(self.forms)} if self.forms.is_active else {}),
        }

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        if split == "predict":
            yield from self._to_predict(row)
            return
        for text, syllables in self._sentences(row):
            for part in self._pieces(syllables):
                if HANZI.search(text[part]):
                    yield Row({"text": text[part], "syllables": syllables[part]}, row.file, row.line)

    def _sentences(self, row: Row) -> Iterator[tuple[str, list[str]]]:
        """The sentences of a record and their tokens."""
        if self.has_syllables:
            text = row.values["text"].strip()
            yield text, _given_syllables(row, text)
        else:
            for sentence in SENTENCE.findall(row.values["text"].strip()):
                yield sentence, read_aloud(sentence)

    def _to_predict(self, row: Row) -> Iterator[Row]:
        """The typed text of a record, with an empty sentence; where syllables are not separated `encode` cuts them."""
        typed = row.values["syllables" if self.has_syllables else "text"]
        if not is_cut(typed) and len(typed) <= self.max_length:
            yield Row({"text": "", "syllables": [typed], "typed": typed}, row.file, row.line)
            return
        tokens = normalised(typed) if is_cut(typed) else likeliest_cut(typed_lattice(typed, self.typing).edges, {})
        for part in self._pieces(tokens):
            yield Row({"text": "", "syllables": tokens[part], "typed": ""}, row.file, row.line)

    def _pieces(self, tokens: Sequence[str]) -> Iterator[slice]:
        return (slice(start, start + self.max_length) for start in range(0, len(tokens), self.max_length))

    def learn(self, train: Iterator[Row]) -> Facts:
        """Count readings: `candidates` has the characters of each syllable with counts, the most frequent first.

        With `forms` it has those of initials too, such as `b-`.
        """
        readings: Counter[tuple[str, str]] = Counter()
        others: Counter[str] = Counter()
        for example in train:
            for character, syllable in zip(example.values["text"], example.values["syllables"], strict=True):
                if HANZI.match(character):
                    readings[syllable, character] += 1
                else:
                    others[character] += 1
        candidates: dict[str, dict[str, int]] = {}
        for (syllable, character), count in sorted(readings.items(), key=lambda item: (-item[1], item[0])):
            candidates.setdefault(syllable, {})[character] = count
        if self.forms.is_active:
            candidates = typed_candidates(candidates, self.forms)
        frequent = [other for other, _ in others.most_common(self.max_other) if other not in candidates]
        return {"vocabulary": sorted(candidates) + sorted(frequent), "candidates": candidates}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        """Encode tokens and targets as ids.

        A target is an index into the syllable's candidates, NOT_A_TARGET for other characters, or NOT_A_CANDIDATE for
        a hanzi without this reading in the training split, which always counts as an error.
        """
        text, syllables = example.values["text"], example.values["syllables"]
        if typed := example.values.get("typed", ""):
            syllables = likeliest_cut(self.typed_edges(typed), self._numbering(facts).counts)
        tokens, candidates, _ = self._numbering(facts)
        labels = [NOT_A_CANDIDATE if token in candidates else NOT_A_TARGET for token in syllables]
        input_ids = [tokens.get(token, UNKNOWN) for token in syllables]
        for place, (character, token) in enumerate(zip(text, syllables, strict=bool(text))):
            if HANZI.match(character):
                labels[place] = candidates.get(token, {}).get(character, NOT_A_CANDIDATE)
            elif token in candidates:  # the letter "a" is not the syllable "a"
                input_ids[place], labels[place] = UNKNOWN, NOT_A_TARGET
        return {
            "input_ids": np.array(input_ids, dtype=np.int32),
            "labels": np.array(labels, dtype=np.int32),
            "text": text,
            "tokens": " ".join(syllables),
            **({"typed": typed} if "typed" in example.values else {}),
        }

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        if split != "train" or not self.forms.is_active:
            return rows
        if self.forms.has_initials and not any(token.endswith("-") for token in self.facts()["candidates"]):
            raise ConfigError(
                "data.forms.abbreviated_share is above 0, and the model was trained without initials, which it cannot "
                "read. Train a new one, or set it to 0."
            )
        return TypedRows(rows)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad with PAD and NOT_A_TARGET: `input_ids` and `labels` are [B, T]; `text` and `tokens` are lists of B.

        Training rows are typed as `forms` says. To predict, `typed` is the text as it was typed where its syllables are
        not separated, and `lattices` has its readings, a list of edges; else both are empty.
        """
        rows = [self._typed(row) if "is_typed" in row else row for row in rows]
        input_ids = pad([row["input_ids"] for row in rows], PAD)
        labels = pad([row["labels"] for row in rows], NOT_A_TARGET)
        return {
            "id": [row["id"] for row in rows],
            "input_ids": input_ids,
            "attention_mask": input_ids != PAD,
            "labels": labels,
            "text": [row["text"] for row in rows],
            "tokens": [_TOKEN.findall(row["tokens"]) for row in rows],
            "typed": [row.get("typed", "") for row in rows],
            "lattices": [self.typed_edges(row.get("typed", "")) for row in rows],
            "num_tokens": sum(len(row["input_ids"]) for row in rows),
            "num_targets": int((labels >= 0).sum()),
        }

    def typed_edges(self, typed: str) -> Sequence[Edge]:
        """Return all readings of a typed text; none where it is too long for one example."""
        return typed_lattice(typed, self.typing).edges if 0 < len(typed) <= self.max_length else ()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        return Inspected(length=len(row["text"]))

    def examine(self, rows: TokenisedSplit, files: Sequence[str], facts: SplitFacts) -> None:
        super().examine(rows, files, facts)
        texts = (str(rows.cell("text", number)) for number in range(len(rows)))
        are_read_aloud = not self.has_syllables and _pypinyin_version() is not None
        facts.remarks += hanzi_remarks(texts, are_read_aloud=are_read_aloud)

    def _typed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        tokens, (numbers, candidates, _) = _TOKEN.findall(row["tokens"]), self._numbering(self.facts())
        ids, labels = (row[name].astype(np.int64) for name in ("input_ids", "labels"))  # stored in fewer bytes
        typed = as_typed(tokens, (labels >= 0).tolist(), self.forms, row["draw_seed"])
        for place, character in enumerate(row["text"]):
            label = candidates.get(typed[place], {}).get(character)
            if typed[place] != tokens[place] and label is not None:
                tokens[place], ids[place], labels[place] = typed[place], numbers[typed[place]], label
        return {**row, "input_ids": ids, "labels": labels, "tokens": " ".join(tokens)}

    def _numbering(self, facts: Facts) -> "_Numbers":
        if self._numbered is not facts:
            tokens = {token: number for number, token in enumerate(facts["vocabulary"], start=UNKNOWN + 1)}
            places = {
                syllable: {character: place for place, character in enumerate(characters)}
                for syllable, characters in facts["candidates"].items()
            }
            counts = {syllable: sum(own.values()) for syllable, own in facts["candidates"].items()}
            self._numbered, self._numbers = facts, _Numbers(tokens, places, counts)
        return self._numbers


class _Numbers(NamedTuple):
    """What examples are encoded with, made once of the facts."""

    tokens: dict[str, int]
    """Ids."""
    candidates: dict[str, dict[str, int]]
    """The characters of each syllable, with their places among them."""
    counts: dict[str, int]
    """How often each syllable was seen."""


def read_aloud(text: str) -> list[str]:
    """Convert each character to its toneless syllable, as pypinyin reads it in context; others stay as they are.

    >>> read_aloud("银行，行长")
    ['yin', 'hang', '，', 'hang', 'zhang']
    """
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise ConfigError("converting Chinese text needs pypinyin: pip install 'lightrail[chinese]'.") from error
    syllables: list[str] = lazy_pinyin(text, style=Style.NORMAL, errors=list)  # type: ignore[arg-type]
    return syllables


def _hanzi_of(text: str) -> str:
    return "".join(HANZI.findall(text))


def _given_syllables(row: Row, text: str) -> list[str]:
    syllables = normalised(row.values["syllables"])
    if len(syllables) != len(text):
        raise DataError(
            f"{row.file}:{row.line}: {len(syllables)} syllables for {len(text)} characters "
            f"({shown(' '.join(syllables))} / {shown(text)}). Give one token for each character, punctuation included, "
            f"{'with spaces between them, ' * (len(syllables) < len(text))}or drop the line."
        )
    return syllables


def _pypinyin_version() -> str | None:
    try:
        return version("pypinyin")
    except PackageNotFoundError:
        return None
