"""Pinyin to hanzi by two models together.

Shapes: B sentences, T positions, n sentences that were found for an example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, final, get_args

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightrail.lightning_modules.arguments import FromData, from_plain
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.metrics.sentence_errors import num_edits, only_hanzi
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.characters import PAD, UNKNOWN_TOKEN, CharacterTable
from lightrail.lightning_modules.pinyin.conversion_head import (
    NUM_SENTENCES,
    ConversionHead,
    Read,
    Sentence,
    parts_of,
    typed_candidates,
)
from lightrail.lightning_modules.pinyin.converter import PinyinConverter
from lightrail.lightning_modules.pinyin.lattice_search import Edge, LatticeSearch, Reading
from lightrail.lightning_modules.pinyin.ngram import PinyinNgram
from lightrail.lightning_modules.pinyin.readings import Readings
from lightrail.lightning_modules.pinyin.search import BeamConfig, Follower
from lightrail.lightning_modules.pinyin.tagger import PinyinTagger
from lightrail.lightning_modules.pinyin.translator import PinyinTranslator
from lightrail.lightning_modules.transfer.source import read_weights
from lightrail.project.basics.annotations import Ranged
from lightrail.project.basics.errors import ConfigError, shown


def _class_path(task: type) -> str:
    return f"{task.__module__}.{task.__qualname__}"


Part = PinyinTagger | PinyinTranslator | PinyinConverter | PinyinNgram
_PARTS: Mapping[str, Callable[..., Part]] = {_class_path(own): own for own in get_args(Part)}
"""What a checkpoint of a fusion may name, by class path."""
_NUM_CUTS = 4
"""Ways to cut a text of letters whose sentences both models score."""
_WEIGHTS = torch.linspace(0, 1, 21)
"""Weights of the second model that are tried."""


@dataclass(frozen=True, kw_only=True)
class PartConfig(Ranged):
    """A trained model of pinyin."""

    path: str | None = None
    """Its checkpoint, or the folder that it was exported to. null: see `task`, as in a checkpoint, which has the
    weights."""
    task: str | None = None
    """Class path of the model; read from `path`."""
    arguments: dict[str, Any] | None = None
    """Its arguments but for what comes from the data; read from `path`."""

    def build(self, facts: Mapping[str, Any], where: str) -> tuple[Part, "PartConfig"]:
        """Return the model, and these settings with what was read. Raises: ConfigError when it cannot be used."""
        if self.path is None:
            if self.task is None or self.arguments is None:
                raise ConfigError(f"{where}.path is null. Name a checkpoint of a pinyin model, or its exported folder.")
            if self.task not in _PARTS:
                raise ConfigError(f"{where}.task={shown(self.task, 200)} is none of {', '.join(_PARTS)}.")
            return _PARTS[self.task](**facts, **from_plain(self.arguments)), self
        if not Path(self.path).exists():
            raise ConfigError(
                f"{where}.path={shown(self.path, 200)}: there is no such file or folder. Name a checkpoint, or "
                "a folder that `lightrail export` wrote."
            )
        task = read_weights(Path(self.path)).task
        if not isinstance(task, Part):
            raise ConfigError(
                f"{where}.path={shown(self.path, 200)} is no model of pinyin, but {type(task).__name__}. Name a "
                "checkpoint of PinyinNgram, PinyinConverter, PinyinTagger or PinyinTranslator."
            )
        if task.data_facts() != facts:
            raise ConfigError(
                f"{where}.path={shown(self.path, 200)} was trained on other data: its syllables have other candidates. "
                "Train both models, and this one, with the same settings of data."
            )
        arguments = {name: own for name, own in task.hparams_initial.items() if name not in facts}
        return task, replace(self, path=None, task=_class_path(type(task)), arguments=arguments)


@final
class PinyinFusion(TaskModule):
    """Finds the sentence that two trained models together find most probable.

    The log probability of a sentence is the weighted sum of theirs. Nothing is trained: the weight is chosen on the
    validation split, as the one with which the fewest characters of the sentences found are wrong.

    Args:
        vocabulary: the tokens that are read; from the data.
        candidates: for each syllable its characters and how often each was seen; from the data.
        first: a model, which chooses the characters that the other one scores: the network of a network and n-grams.
        second: another one, trained on the same data.
        weight: of the second model, until another is chosen; the first has the rest to 1.
        beams: how far the search looks.
    """

    pipeline_tag = "translation"
    monitor = "val/character_accuracy"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        candidates: FromData[dict[str, dict[str, int]]],
        *,
        first: PartConfig = PartConfig(),
        second: PartConfig = PartConfig(),
        weight: Annotated[float, Interval(ge=0, le=1)] = 0.5,
        beams: BeamConfig = BeamConfig(),
        optim: OptimConfig = OptimConfig(lr=1e-6, schedule="constant", warmup_fraction=0.0),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.beams, self.table = beams, CharacterTable(vocabulary, candidates)
        self.head = FusionHead(self.table, beams, weight)
        facts = {"vocabulary": vocabulary, "candidates": candidates}
        self.first, self.hparams["first"] = first.build(facts, "model.first")
        self.second, self.hparams["second"] = second.build(facts, "model.second")
        for part in (self.first, self.second):
            part.requires_grad_(False)
        self.weight = weight
        self.scale = nn.Parameter(torch.ones(()))
        """Of the scores of single characters: what a step of training has to change."""

    def forward(self, batch: Batch) -> Read:
        """Let both models read a batch."""
        for part in (self.first, self.second):
            part.eval()  # at each batch: Lightning restores the modes that it found before an evaluation
        with torch.no_grad():
            outputs = self.first(batch), self.second(batch)
        weight = self.weight_of_second()

        def followers() -> Sequence[tuple[float, Follower]]:
            return [(1 - weight, _follower(self.first, outputs[0])), (weight, _follower(self.second, outputs[1]))]

        readings = None
        if all(batch["text"]):
            first, second = (own if isinstance(own, Readings) else own.readings for own in outputs)
            one, other = (own.logits.log_softmax(-1).clamp(min=-1e6) for own in (first, second))
            readings = Readings(self.scale * ((1 - weight) * one + weight * other), first.is_syllable)
        return Read(readings, followers, None if self.lattice_search is None else self.read_typed)

    @cached_property
    def lattice_search(self) -> LatticeSearch | None:
        """The search over readings of letters, by the n-grams; None where no part is n-grams."""
        found = [part for part in (self.first, self.second) if isinstance(part, PinyinNgram)]
        return found[0].lattice_search if found else None

    def read_typed(self, edges: Sequence[Edge], num: int) -> list[Sentence]:
        """Return the best sentences over all readings of typed letters, at most `num`.

        The n-grams find the likeliest ways to cut the letters, and both models together the sentences of each. What
        the network cannot say, how probable the syllables are, the n-grams do.
        """
        assert self.lattice_search is not None, "only n-grams tell readings apart"
        paths = self.lattice_search.paths(edges, max(num, self.beams.num_beams))
        different: dict[tuple[str, ...], Reading] = {}
        for path in paths:
            different.setdefault(tuple(path.tokens), path)
        cuts = list(different.values())[:_NUM_CUTS]
        known = self.lattice_search.numbers
        if not all(_is_known(cut, known) for cut in cuts):
            return [Sentence(own.text, own.log_probability, parts_of(own)) for own in paths[:num]]  # new initials
        batch = _batch_of(cuts, known, self.table.choices.device)
        found = self.head.sentences(self(batch), batch, max(num, self.beams.num_beams))
        place = [isinstance(part, PinyinNgram) for part in (self.first, self.second)].index(True)
        weight = (1 - self.weight_of_second(), self.weight_of_second())[place]
        sentences = []
        for cut, some in zip(cuts, found, strict=True):
            of_cut = float(torch.tensor([own.parts[place] for own in some]).logsumexp(0))
            for own in some:
                total = own.log_probability + (1 - weight) * of_cut - cut.cost
                parts = tuple(zip(self.table.parts(own.ids, cut.tokens), cut.ends, strict=True))
                sentences.append(Sentence(self.table.text(own.ids, cut.tokens), total, parts))
        best: dict[str, Sentence] = {}
        for sentence in sorted(sentences, key=lambda one: -one.log_probability):
            best.setdefault(sentence.text, sentence)
        return list(best.values())[:num]

    def typed_candidates(self, edges: Sequence[Edge]) -> list[tuple[tuple[str, int], ...]]:
        """Return what somebody who types may choose, see `conversion_head.typed_candidates`; none without n-grams.

        Args:
            edges: all readings of the letters typed so far.
        """
        if self.lattice_search is None or not edges:
            return []
        return typed_candidates(self.read_typed(edges, NUM_SENTENCES), self.lattice_search, self.beams.num_beams)

    def weight_of_second(self) -> float:
        """Return the weight of the second model: rows of a calibration do not depend on the one that it chooses."""
        return self.weight if self.training or self.is_calibrating else float(self.head.chosen_weight)


class FusionHead(ConversionHead):
    """Also chooses the weight of the second model, on the validation split."""

    def __init__(self, table: CharacterTable, beams: BeamConfig, weight: float) -> None:
        super().__init__(table, beams)
        self.register_buffer("chosen_weight", torch.tensor(weight))
        self.chosen_weight: Tensor

    def calibration_rows(self, outputs: Read, batch: Mapping[str, Any]) -> Sequence[Any]:
        """Return for each example what both models say of its sentences, the edits of each, and which one is right."""
        rows = []
        found = self.found_with_right(outputs, batch, self.beams.num_beams)
        for (some, right), tokens, text in zip(found, batch["tokens"], batch["text"], strict=True):
            hanzi = [only_hanzi(self.table.text(own.ids, tokens)) for own in some]
            edits = [num_edits(own, only_hanzi(text)) for own in hanzi]
            rows.append((torch.tensor([own.parts for own in some]), torch.tensor(edits), right))
        return rows

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Choose the weight with the fewest wrong characters, and fit the temperature to it."""
        edits = torch.zeros(len(_WEIGHTS))
        for parts, own, _ in rows:
            edits += own[_fused(parts, _WEIGHTS[:, None]).argmax(1)]
        fewest = (edits == edits.min()).nonzero()[:, 0]
        weight = _WEIGHTS[fewest[len(fewest) // 2]]  # the middle one of several
        self.chosen_weight.copy_(weight)
        best = []
        for parts, _, right in rows:  # of each example, those sentences that a prediction has with this weight
            fused = _fused(parts, weight)
            kept = fused.argsort(descending=True)[:NUM_SENTENCES].tolist()
            best.append((fused[kept], kept.index(right) if right in kept else -1))
        return {"calibration/weight": float(weight), **super().calibrate(best)}


def _fused(parts: Tensor, weight: Tensor) -> Tensor:
    """Return the log probabilities of sentences, from those of both models, [n, 2] to [..., n]."""
    return (1 - weight) * parts[:, 0] + weight * parts[:, 1]


def _follower(part: Part, outputs: Any) -> Follower:
    """Begin a search by one model alone."""
    if isinstance(part, PinyinTagger | PinyinTranslator):
        return part.follower(outputs)
    ((_, follower),) = outputs.followers()
    return follower  # type: ignore[no-any-return]


def _is_known(cut: Reading, numbers: Mapping[str, int]) -> bool:
    return all(is_copied or token in numbers for token, is_copied in zip(cut.tokens, cut.are_copied, strict=True))


def _batch_of(cuts: Sequence[Reading], numbers: Mapping[str, int], device: torch.device) -> Batch:
    """Return the ways to cut a text as a batch to predict."""
    ids = [
        # A copied letter may look like a syllable, such as a.
        [UNKNOWN_TOKEN if copied and token.isascii() else numbers.get(token, UNKNOWN_TOKEN) for token, copied in own]
        for own in (zip(cut.tokens, cut.are_copied, strict=True) for cut in cuts)
    ]
    input_ids = pad_sequence([torch.tensor(own, device=device) for own in ids], batch_first=True, padding_value=PAD)
    return {
        "input_ids": input_ids,
        "attention_mask": input_ids != PAD,
        "text": [""] * len(cuts),
        "tokens": [cut.tokens for cut in cuts],
    }
