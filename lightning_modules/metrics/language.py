"""How well a language model predicts text.

Shapes: N targets, P ranges of positions.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

RANGES_PER_OCTAVE = 4
NUM_RANGES = 30 * RANGES_PER_OCTAVE
"""P: up to 2^30 positions."""


class LanguageMetrics(Metric):
    """Perplexity, bits per character and per byte, and the share of targets that are the likeliest token.

    With L the nats of all targets, T their number, C the characters and B the UTF-8 bytes that they spell: `perplexity`
    is exp(L / T), `bits_per_character` L / (C ln 2), `bits_per_byte` L / (B ln 2). A document's end is a target and
    spells nothing. What divides by zero, as targets without a character do, is not a number (or infinite).

    Source of bits per character: S. Mielke (2019), "Can you compare perplexity across different segmentations?"
    """

    full_state_update = False
    nats: Tensor
    correct: Tensor
    targets: Tensor
    characters: Tensor
    bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "correct", "targets", "characters", "bytes"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, are_correct: Tensor, num_characters: int, num_bytes: int) -> None:
        """Count the nats of targets, [N], whether each is the likeliest token, [N], and what all of them spell."""
        self.nats += losses.double().sum()
        self.correct += are_correct.sum()
        self.targets += len(losses)
        self.characters += num_characters
        self.bytes += num_bytes

    def compute(self) -> dict[str, Tensor]:
        bits = self.nats / math.log(2)
        return {
            "perplexity": torch.exp(self.nats / self.targets),
            "bits_per_character": bits / self.characters,
            "bits_per_byte": bits / self.bytes,
            "token_accuracy": self.correct / self.targets,
        }


class LossByPosition(Metric):
    """Mean nats of targets by how many positions came before them.

    `loss_by_position` has a line for each range of positions that holds a target, [P, 3]: mean position (the first
    one is 1), mean nats, number of targets. Ranges are quarters of an octave, so that the first positions stand alone.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(NUM_RANGES, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, positions: Tensor) -> None:
        """Count the nats of targets, [N], and the place in its row of the token that each follows, [N], from 0."""
        ordinals = positions.double() + 1
        ranges = (RANGES_PER_OCTAVE * ordinals.log2()).long().clamp(max=NUM_RANGES - 1)
        self.sums.index_add_(0, ranges, torch.stack([ordinals, losses.double(), torch.ones_like(ordinals)], dim=1))

    def compute(self) -> dict[str, Tensor]:
        some = self.sums[self.sums[:, 2] > 0]  # [P, 3]
        counts = some[:, 2:]
        return {"loss_by_position": torch.cat([some[:, :2] / counts, counts], dim=1)}
