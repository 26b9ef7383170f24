"""Error rates of `lightrail compare`: false alarms between equal models, and detection of a worse one.

Models, seeds and test examples are sampled for each comparison. Examples are hard or easy for all models, so that
errors are correlated as those of real models are. Run: .venv/bin/python -m benchmarks.comparing (two minutes)
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lightrail.lightning_modules.metrics.scores import Columns, MacroF1, Score, ShareEqual, SumRatio, WeightedMean
from lightrail.project.comparing.measuring import SIGNIFICANCE, measure

LABELS = ("a", "b", "c", "d")
FREQUENCIES = (0.5, 0.3, 0.15, 0.05)
SCORES: Mapping[str, Score] = {
    "accuracy": ShareEqual(),
    "f1_macro": MacroF1(labels=LABELS),
    "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
    "error_rate": SumRatio(numerator="num_edits", denominator="num_targets", higher_is_better=False),
}


MADE_WORSE = 0.98
"""Correlation of a model with a worse version of itself: most of its predictions are the same."""


@dataclass(frozen=True)
class World:
    """Two models, the second worse by `gap`, each trained with `num_seeds` seeds and tested on the same examples."""

    num_examples: int = 1000
    num_seeds: int = 1
    accuracy: float = 0.85
    gap: float = 0.0
    """Difference in accuracy between the models."""
    correlation: float = 0.7
    """Correlation of an example's difficulty between the models."""
    seed_deviation: float = 0.05
    """Standard deviation of a model's ability over its seeds; an example's difficulty has 1."""

    def sides(self, generator: np.random.Generator) -> list[list[Columns]]:
        """Sample the predictions of both models, one table for each seed."""
        targets = generator.choice(len(LABELS), self.num_examples, p=FREQUENCIES)
        difficulty = generator.normal(size=self.num_examples)
        lengths = generator.integers(1, 30, self.num_examples)
        return [
            [self._predictions(generator, accuracy, targets, difficulty, lengths) for _ in range(self.num_seeds)]
            for accuracy in (self.accuracy, self.accuracy - self.gap)
        ]

    def _predictions(
        self,
        generator: np.random.Generator,
        accuracy: float,
        targets: NDArray[np.int64],
        difficulty: NDArray[np.float64],
        lengths: NDArray[np.int64],
    ) -> Columns:
        own = generator.normal(size=self.num_examples)
        trouble = np.sqrt(self.correlation) * difficulty + np.sqrt(1 - self.correlation) * own
        if self.num_seeds > 1:
            trouble = trouble + self.seed_deviation * generator.normal()
        is_right = trouble < norm.ppf(accuracy)
        wrong = (targets + generator.integers(1, len(LABELS), self.num_examples)) % len(LABELS)
        names = np.array(LABELS, object)
        chance = 1 / (1 + np.exp(2 - trouble - (self.accuracy - accuracy) * 4))
        return {
            "target": names[targets],
            "prediction": names[np.where(is_right, targets, wrong)],
            "loss": np.exp(trouble + (self.accuracy - accuracy) * 4),
            "num_targets": lengths,
            "num_edits": generator.binomial(lengths, chance),
        }


@dataclass(frozen=True)
class Alarms:
    """Fractions of comparisons with an alarm."""

    by_metric: Mapping[str, float]
    """Fraction with a p value below 0.05 for this metric alone."""
    any_metric: float
    """Fraction with a significant difference in any metric, after the correction."""


def alarms(world: World, num_comparisons: int, num_resamples: int, num_swaps: int, seed: int = 0) -> Alarms:
    """Compare the two models many times, with new samples each time."""
    by_metric, any_metric = dict.fromkeys(SCORES, 0), 0
    for number in range(num_comparisons):
        sides = world.sides(np.random.default_rng([seed, number]))
        found = measure(sides, SCORES, num_resamples, num_swaps, seed=number).differences
        any_metric += any(difference.is_shown for difference in found)
        for difference in found:
            by_metric[difference.metric] += difference.p < SIGNIFICANCE
    shares = {metric: count / num_comparisons for metric, count in by_metric.items()}
    return Alarms(shares, any_metric / num_comparisons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=1000)
    arguments = parser.parse_args()
    single, seeds = World(), World(num_seeds=5)
    worlds = {
        "equal, single runs": single,
        "equal, 100 examples": replace(single, num_examples=100),
        "equal, 5 seeds each": seeds,
        "equal, 5 unsteady seeds": replace(seeds, seed_deviation=0.2),
        "3 points worse, single": replace(single, gap=0.03),
        "3 points worse, 5 seeds": replace(seeds, gap=0.03),
        "made worse, single": replace(single, gap=0.03, correlation=MADE_WORSE),
        "made worse, 5 seeds": replace(seeds, gap=0.03, correlation=MADE_WORSE),
    }
    print(f"fraction of {arguments.comparisons} comparisons with p < 0.05, and with any significant difference\n")
    print(f"{'':26}{''.join(f'{name:>12}' for name in SCORES)}{'any (Holm)':>12}")
    for name, world in worlds.items():
        found = alarms(world, arguments.comparisons, num_resamples=500, num_swaps=2000)
        shares = [*found.by_metric.values(), found.any_metric]
        print(f"{name:26}{''.join(f'{share:12.1%}' for share in shares)}", flush=True)


if __name__ == "__main__":
    main()
