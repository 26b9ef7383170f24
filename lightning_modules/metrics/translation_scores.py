"""Scores of translations, by sacrebleu: functions of sums over sentences. Needs no torch.

Shapes: N examples, S statistics.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightrail.lightning_modules.metrics.scores import Columns, Score, Values
from lightrail.project.basics.annotations import NaturalInt, Ranged
from lightrail.project.basics.private_names import score_of_sums, sentence_statistics

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

BleuTokenizer = Literal["13a", "intl", "zh", "char", "none"]


@dataclass(frozen=True, kw_only=True)
class TranslationScore(Score):
    """A metric of sacrebleu, of the columns `prediction` and `target`, on a scale of 0 to 100."""

    @abstractmethod
    def metric(self) -> "Metric":
        """Return the metric of sacrebleu."""

    def statistics(self, columns: Columns) -> Values:
        """Return sacrebleu's own statistics of each sentence, [N, S]."""
        found = sentence_statistics(self.metric(), columns["prediction"].tolist(), columns["target"].tolist())
        return np.array(found, np.float64)

    def value(self, sums: Values) -> Values:
        """Return the metric, [..., S] to [...]."""
        flat = sums.reshape(-1, sums.shape[-1])
        values = [score_of_sums(self.metric(), own.tolist()) for own in flat]
        return np.array(values, np.float64).reshape(sums.shape[:-1])

    def signature(self) -> str:
        """Return everything that the metric depends on, as sacrebleu writes it to be compared."""
        metric = self.metric()
        metric.num_refs = 1
        return str(metric.get_signature())


@dataclass(frozen=True, kw_only=True)
class Bleu(TranslationScore):
    """BLEU: geometric mean of the precisions of 1- to 4-grams, times a penalty for short texts.

    Source: K. Papineni et al. (2002), "BLEU: a Method for Automatic Evaluation of Machine Translation"; M. Post (2018),
    "A Call for Clarity in Reporting BLEU Scores".
    """

    lower_case: bool = False
    tokenize: BleuTokenizer = "13a"

    def metric(self) -> "Metric":
        """Return sacrebleu's BLEU."""
        return _bleu(self.lower_case, self.tokenize)


@dataclass(frozen=True, kw_only=True)
class Chrf(TranslationScore):
    """chrF: F2 of character n-grams up to 6, and of word n-grams up to `word_order` (2: chrF++).

    Source: M. Popović (2015), "chrF: character n-gram F-score for automatic MT evaluation".
    """

    word_order: int = 0

    def metric(self) -> "Metric":
        """Return sacrebleu's chrF."""
        return _chrf(self.word_order)


@dataclass(frozen=True, kw_only=True)
class Ter(TranslationScore):
    """TER: insertions, deletions, substitutions and shifts of words, per word of the reference, in percent.

    Source: M. Snover et al. (2006), "A Study of Translation Edit Rate with Targeted Human Annotation".
    """

    higher_is_better: bool = False

    def metric(self) -> "Metric":
        """Return sacrebleu's TER."""
        return _ter()


@cache
def _bleu(lower_case: bool, tokenize: str) -> "Metric":
    from sacrebleu.metrics.bleu import BLEU

    # `force`: texts that were tokenised before are a choice of the data, not worth a warning at each evaluation.
    return BLEU(lowercase=lower_case, tokenize=tokenize, force=True)


@cache
def _chrf(word_order: int) -> "Metric":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=word_order)


@cache
def _ter() -> "Metric":
    from sacrebleu.metrics.ter import TER

    return TER()


@dataclass(frozen=True, kw_only=True)
class TranslationMetricsConfig(Ranged):
    """Which metrics are computed of the texts, and how they treat them."""

    lower_case: bool = False
    """Compute BLEU of lower-cased texts."""
    tokenize: BleuTokenizer = "13a"
    """How BLEU splits texts into words: 13a and intl for most languages, zh for Chinese, char for characters, none for
    texts that are split by spaces already."""
    chrf_word_order: NaturalInt = 0
    """Longest word n-grams of chrF; 2 is chrF++."""
    has_ter: bool = False
    """Compute TER too, which takes longer."""

    def scores(self) -> Mapping[str, TranslationScore]:
        """Return the metrics by name."""
        scores: dict[str, TranslationScore] = {
            "bleu": Bleu(lower_case=self.lower_case, tokenize=self.tokenize),
            "chrf": Chrf(word_order=self.chrf_word_order),
        }
        return {**scores, "ter": Ter()} if self.has_ter else scores
