"""BLEU, chrF and TER are sacrebleu's, whatever batches and processes they are summed over."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.translation_scores import (
    Bleu,
    Chrf,
    Ter,
    TranslationMetricsConfig,
    TranslationScore,
)

TARGETS = ["the cat sat on the mat .", "It is Late , very late", "我们 今天 去 学校", "yes", "two men are outside ."]
PREDICTIONS = ["the cat sat on a mat .", "it is late , so late", "我们 去 学校", "", "two men stand outside near ."]
SCORES: dict[str, tuple[TranslationScore, Callable[[], Any]]] = {
    "bleu": (Bleu(), BLEU),
    "lower case": (Bleu(lower_case=True, tokenize="none"), lambda: BLEU(lowercase=True, tokenize="none")),
    "chinese": (Bleu(tokenize="zh"), lambda: BLEU(tokenize="zh")),
    "chrf": (Chrf(), CHRF),
    "chrf++": (Chrf(word_order=2), lambda: CHRF(word_order=2)),
    "ter": (Ter(), TER),
}


def columns() -> dict[str, Any]:
    return {"prediction": np.array(PREDICTIONS, object), "target": np.array(TARGETS, object)}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_and_its_signature_are_those_of_sacrebleu(name: str) -> None:
    score, metric = SCORES[name]
    expected = metric()
    assert score.of(columns()) == pytest.approx(expected.corpus_score(PREDICTIONS, [TARGETS]).score, rel=1e-12)
    assert score.signature() == str(expected.get_signature())


@pytest.mark.parametrize("name", SCORES)
def test_batches_add_up(name: str) -> None:
    score, _ = SCORES[name]
    sums = ScoreSums({name: score})
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        sums.update({"prediction": PREDICTIONS[part], "target": TARGETS[part]})
    assert sums.compute()[name] == pytest.approx(score.of(columns()), rel=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_many_sums_are_computed_at_once(name: str) -> None:
    """As resampling does, [R, K, S] to [R, K]."""
    score, _ = SCORES[name]
    rows = score.statistics(columns())
    sums = np.stack([rows[[0, 1, 4]].sum(0), rows.sum(0)])[None]
    assert score.value(sums)[0].tolist() == [score.of_rows(rows[[0, 1, 4]]), score.of_rows(rows)]


def test_ter_is_better_when_it_is_smaller_and_computed_where_asked() -> None:
    assert [*TranslationMetricsConfig().scores()] == ["bleu", "chrf"]
    ter = TranslationMetricsConfig(has_ter=True).scores()["ter"]
    assert not ter.higher_is_better
