"""Which training examples an epoch takes, where labels are unequally frequent or sources unequally wanted.

Shapes: N examples there are, M examples of an epoch, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.annotations import Ranged, ShareAboveZero


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Ranged):
    """How training examples are drawn, where labels are unequally frequent. Other splits keep what they have."""

    method: Literal["none", "oversample", "undersample", "weighted"] = "none"
    """none: each example once an epoch. oversample: all examples, those of rare labels repeatedly, up to the most
    frequent label. undersample: as many examples of each label as the rarest has, others in every epoch. weighted: as
    many examples as there are, drawn with replacement."""
    power: ShareAboveZero = 1.0
    """How far shares are evened out, in (0, 1]. A label with a share of c is shown with one proportional to
    c ** (1 - power): 1 shows all labels equally often, 0.5 goes half the way. Not read with method none."""


class LabelDraw:
    """Draws the examples of an epoch by their labels: as many in every epoch, following from seed and epoch alone.

    Args:
        labels: number of each example's label, [N].
        seed: of the order of training.
    """

    def __init__(self, labels: NDArray[np.integer], config: SamplingConfig, seed: int) -> None:
        assert config.method != "none", "without a method every example is taken once"
        self.config, self.seed = config, seed
        _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.examples = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
        self.wanted = counts ** (1 - config.power)  # in proportion

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Give the numbers of the examples to learn from, ordered by label, [M]."""
        generator = np.random.default_rng([self.seed, epoch, 1])  # the 1 tells it from the one of the batches
        counts = np.array([len(own) for own in self.examples])
        if self.config.method == "weighted":
            chances = np.repeat(self.wanted / counts / self.wanted.sum(), counts)
            drawn: NDArray[np.int64] = generator.choice(np.concatenate(self.examples), size=counts.sum(), p=chances)
            return drawn
        # The label that is neither repeated nor thinned out sets the scale.
        scale = counts.max() if self.config.method == "oversample" else counts.min()
        sizes = np.rint(scale * (self.wanted / scale ** (1 - self.config.power))).astype(int)
        return np.concatenate([_repeated(own, size, generator) for own, size in zip(self.examples, sizes, strict=True)])


def _repeated(examples: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Take all examples as often as they fit into `size`, and a random part of them for the rest."""
    whole, rest = divmod(size, len(examples))
    return np.concatenate([np.tile(examples, whole), generator.choice(examples, rest, replace=False)])


class SourceDraw:
    """Takes the examples of each source as often as its weight says: as many in every epoch, following from the seed.

    A weight of 2.5 takes each example twice and a random half once more; no source is left out whole. Over the epochs
    that half is dealt from a shuffled pile of all of them, and the next pile begins when one is used up: after two
    epochs each has been in it once.

    Args:
        sources: number of each example's source, [N].
        weights: of each source, above 0, [S].
        seed: of the order of training.
    """

    def __init__(self, sources: NDArray[np.integer], weights: Sequence[float], seed: int) -> None:
        self.sources, self.weights, self.seed = sources, weights, seed

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Give the numbers of the examples to learn from, ordered by source, [M]."""
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
        """Give the places that lie in a row in pile after pile, from place `first` of them all."""
        start, pile = first % num_examples, first // num_examples
        places = [
            np.random.default_rng([self.seed, source, number, 2]).permutation(num_examples)
            for number in range(pile, (first + size - 1) // num_examples + 1)
        ]
        return np.concatenate(places)[start : start + size]
