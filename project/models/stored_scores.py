"""Scores serialized as text beside their predictions, so that runs can be compared without their tasks."""

import json
from collections.abc import Mapping
from typing import Any

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.metrics.scores import StoredScore
from lightrail.project.basics.errors import ConfigError

MODULES_0_1 = {
    "entity_scores": "EntityErrors EntityScore",
    "label_scores": "CalibrationError MacroPrecision MacroRecall Matthews MicroF1 WeightedF1",
    "language_scores": "BitsPerUnit Perplexity",
    "ranking": "MacroAuroc MacroAveragePrecision",
    "scores": "MacroF1 ShareEqual ShareZero SumRatio WeightedMean",
}
"""Modules of the scores that version 0.1.0 stored by their bare names."""
PATHS_0_1 = {
    name: f"lightrail.lightning_modules.metrics.{module}.{name}"
    for module, names in MODULES_0_1.items()
    for name in names.split()
}


def scores_to_json(scores: Mapping[str, StoredScore]) -> str:
    """Serialize scores, by the name of their metric, as text that `scores_from_json` reads."""
    return json.dumps({name: to_plain(score) for name, score in scores.items()}, ensure_ascii=False)


def scores_from_json(text: str) -> dict[str, StoredScore]:
    """Read scores that `scores_to_json` wrote.

    Raises: ConfigError naming a metric whose class is not available, such as one of a module not yet imported.
    """
    return {name: _score(name, plain) for name, plain in json.loads(text).items()}


def _score(name: str, plain: dict[str, Any]) -> StoredScore:
    if kind := plain.pop("kind", None):
        plain = {"class_path": PATHS_0_1.get(kind, kind), "init_args": plain}
    arguments = {key: tuple(own) if isinstance(own, list) else own for key, own in plain["init_args"].items()}
    try:
        score = from_plain({**plain, "init_args": arguments})
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"metric {name} is computed by {plain['class_path']}, which cannot be built here. "
            f"If it is your own, import its module first (--allow_modules on the command line)."
        ) from error
    if not isinstance(score, StoredScore):
        raise ConfigError(f"metric {name} is computed by {plain['class_path']}, which is no StoredScore of lightrail.")
    return score
