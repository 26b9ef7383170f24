"""A comparison as JSON, for programs: every number in full, null where one is undefined."""

import json
import math
from dataclasses import asdict
from typing import Any

from lightrail.project.comparing.comparison import Comparison


def as_json(comparison: Comparison) -> str:
    plain = {
        "entries": [
            {
                "run_id": entry.run_id,
                "name": entry.name,
                "experiment_id": entry.experiment_id,
                "is_group": entry.is_group,
                "runs": [run.run_id for run in entry.runs],
                "metrics": {metric: asdict(own[place]) for metric, own in comparison.measured.estimates.items()},
            }
            for place, entry in enumerate(comparison.entries)
        ],
        "differences": [
            {
                **asdict(own),
                "run_id": comparison.entries[own.side].run_id,
                "baseline": comparison.entries[0].run_id,
                "is_better": own.is_better,
                "verdict": own.verdict,
            }
            for own in comparison.measured.differences
        ],
        "num_examples": comparison.num_rows,
        "main_metric": comparison.main_metric,
        "examples": [asdict(example) for example in comparison.examples],
        "settings": comparison.settings,
        "notes": list(comparison.notes),
        "method": comparison.method,
        "mlflow": comparison.link,
    }
    return json.dumps(_defined(plain), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _defined(value: Any) -> Any:
    """The same with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
