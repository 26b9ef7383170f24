"""Every kind of score, by name: what stored predictions say of themselves is read with this list."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightrail.lightning_modules.metrics.entity_scores import EntityErrors, EntityScore
from lightrail.lightning_modules.metrics.label_scores import (
    CalibrationError,
    MacroPrecision,
    MacroRecall,
    Matthews,
    MicroF1,
    WeightedF1,
)
from lightrail.lightning_modules.metrics.language_scores import BitsPerUnit, Perplexity
from lightrail.lightning_modules.metrics.ranking import MacroAuroc, MacroAveragePrecision
from lightrail.lightning_modules.metrics.scores import (
    MacroF1,
    ShareEqual,
    ShareZero,
    StoredScore,
    SumRatio,
    WeightedMean,
)
from lightrail.project.basics.errors import ConfigError

KINDS: Mapping[str, type[StoredScore]] = {
    kind.__name__: kind
    for kind in (
        ShareEqual,
        ShareZero,
        WeightedMean,
        SumRatio,
        MacroF1,
        MicroF1,
        WeightedF1,
        MacroPrecision,
        MacroRecall,
        Matthews,
        MacroAuroc,
        MacroAveragePrecision,
        CalibrationError,
        EntityScore,
        EntityErrors,
        Perplexity,
        BitsPerUnit,
    )
}


def scores_to_json(scores: Mapping[str, StoredScore]) -> str:
    """Scores by the name of their metric, as text that `scores_from_json` reads."""
    plain = {name: {"kind": type(score).__name__, **asdict(score)} for name, score in scores.items()}
    return json.dumps(plain, ensure_ascii=False)


def scores_from_json(text: str) -> dict[str, StoredScore]:
    """Raises: ConfigError when there is a kind of score that this version does not know."""
    return {name: _score(name, dict(plain)) for name, plain in json.loads(text).items()}


def _score(name: str, plain: dict[str, Any]) -> StoredScore:
    kind = plain.pop("kind")
    if kind not in KINDS:
        raise ConfigError(f"metric {name} is counted by {kind!r}, which this version of lightrail does not know.")
    settings: dict[str, Any] = {key: tuple(own) if isinstance(own, list) else own for key, own in plain.items()}
    return KINDS[kind](**settings)
