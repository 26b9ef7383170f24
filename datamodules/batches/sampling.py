"""Sampling of an epoch's training examples, by label or by source.

Shapes: N examples, M examples of an epoch, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.annotations import Ranged, ShareAboveZero


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Ranged):
    """Settings for sampling training examples by label; other splits are not sampled."""

    method: Literal["none", "oversample", "undersample", "weighted"] = "none"
    """none: each example once per epoch. oversample: all examples, those of rare labels repeatedly, up to the most
    frequent label. undersample: the rarest label's number of examples of each label, others in every epoch. weighted:
    the number of examples of the data, drawn with replacement."""
    power: ShareAboveZero = 1.0
    """Strength of balancing, in (0, 1]. A label with a fraction of c is sampled in proportion to c ** (1 - power): with
    1 all labels equally often, with 0.5 half balanced. Not read with method none."""


class LabelDraw:
    """Draws the examples of an epoch by label: the same number in every epoch, by seed and epoch alone.

    Args:
        labels: index of each example's label, [N].
        seed: seed of the order of training.
    """

    def __init__(self, labels: NDArray[np.integer], config: SamplingConfig, seed: int) -> None:
        assert config.method != "none", "without a method every example is taken once"
        self.config, self.seed = config, seed
        _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.examples = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
        self.wanted = counts ** (1 - config.power)  # in proportion

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of the epoch's examples, ordered by label, [M]."""
        generator = np.random.default_rng([self.seed, epoch, 1])  # 1: not the generator of the order of batches
        counts = np.array([len(own) for own in self.examples])
        if self.config.method == "weighted":
            chances = np.repeat(self.wanted / counts / self.wanted.sum(), counts)
            drawn: NDArray[np.int64] = generator.choice(np.concatenate(self.examples), size=counts.sum(), p=chances)
            return drawn
        # The label that is neither repeated nor undersampled sets the scale.
        scale = counts.max() if self.config.method == "oversample" else counts.min()
        sizes = np.rint(scale * (self.wanted / scale ** (1 - self.config.power))).astype(int)
        return np.concatenate([_repeated(own, size, generator) for own, size in zip(self.examples, sizes, strict=True)])


def _repeated(examples: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Repeat all examples as often as they fit into `size`, and add a random sample of them for the rest."""
    whole, rest = divmod(size, len(examples))
    return np.concatenate([np.tile(examples, whole), generator.choice(examples, rest, replace=False)])


class SourceDraw:
    """Draws the examples of an epoch by the weights of sources: the same number in every epoch, by seed and epoch.

    A weight of 2.5 takes each example twice and a random half once more; no source is omitted entirely. The halves of
    successive epochs are taken from one permutation of all examples until it is used up, then from the next: in two
    epochs each example is in a half once.

    Args:
        sources: index of each example's source, [N].
        weights: weight of each source, above 0, [S].
        seed: seed of the order of training.
    """

    def __init__(self, sources: NDArray[np.integer], weights: Sequence[float], seed: int) -> None:
        self.sources, self.weights, self.seed = sources, weights, seed

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of the epoch's examples, ordered by source, [M]."""
        drawn = []
        for source, weight in enumerate(self.weights):
            own = np.flatnonzero(self.sources == source)
            whole = int(weight)
            size = max(round((weight - whole) * len(own)), int(whole == 0 and len(own) > 0))
            drawn += [own] * whole
            if size:
                drawn.append(own[self._dealt(source, len(own), epoch * size, size)])
        return np.concatenate(drawn)

    def _dealt(self, source: int, num_examples: int, first: int, size: int) -> NDArray[np.int64]:
        """Return `size` successive elements of concatenated permutations, from element `first` on."""
        start, pile = first % num_examples, first // num_examples
        places = [
            np.random.default_rng([self.seed, source, number, 2]).permutation(num_examples)
            for number in range(pile, (first + size - 1) // num_examples + 1)
        ]
        return np.concatenate(places)[start : start + size]
