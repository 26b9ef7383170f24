"""How far predicted sentences are from what was meant, in characters."""

import re
from collections.abc import Sequence

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torchmetrics import Metric

HANZI = re.compile(r"[\u3400-\u9fff\U00020000-\U000323af]")


class SentenceErrors(Metric):
    """Character error rate, character accuracy and whole-sentence accuracy over hanzi.

    Only hanzi count: signs are copied, so they would flatter. With E the edits (insertions, deletions, substitutions;
    Levenshtein) that turn predictions into targets and H the hanzi of the targets, `character_error_rate` is E / H and
    `character_accuracy` 1 - E / H. `sentence_accuracy` is the share of sentences without an edit.
    """

    full_state_update = False
    edits: Tensor
    hanzi: Tensor
    correct: Tensor
    sentences: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("edits", "hanzi", "correct", "sentences"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], targets: Sequence[str]) -> None:
        """Count sentences; one prediction for each target."""
        for predicted, target in zip(map(only_hanzi, predictions), map(only_hanzi, targets), strict=True):
            edits = num_edits(predicted, target)
            self.edits += edits
            self.hanzi += len(target)
            self.correct += edits == 0
            self.sentences += 1

    def compute(self) -> dict[str, Tensor]:
        rate = self.edits.double() / self.hanzi
        return {
            "character_accuracy": 1 - rate,
            "character_error_rate": rate,
            "sentence_accuracy": self.correct.double() / self.sentences,
        }


def only_hanzi(text: str) -> str:
    return "".join(HANZI.findall(text))


def num_edits(predicted: str, target: str) -> int:
    """Levenshtein distance: the least number of characters to insert, delete or substitute."""
    return Levenshtein.distance(predicted, target)
