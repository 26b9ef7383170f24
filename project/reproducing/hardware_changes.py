"""What is other hardware, in so far as it can move the last digits of a number."""

from collections.abc import Mapping
from typing import Any

COUNTED = {
    "cpu": "processor",
    "physical_cores": "cores",
    "usable_cores": "usable cores",
    "threads": "threads",
    "instructions": "instructions",
    "arithmetic": "arithmetic libraries",
    "gpus": "GPUs",
    "visible_gpus": "visible GPUs",
}
"""Key in `hardware.json`, and what it is called."""


def hardware_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare what a run recorded of its hardware with what is here; what it did not record is left out."""
    if not then:
        return ["the run does not tell what it ran on"]
    return [
        f"{name}: {_in_words(then, key)} -> {_in_words(now, key)}"
        for key, name in COUNTED.items()
        if key in then and _compared(then, key) != _compared(now, key)
    ]


def _compared(facts: Mapping[str, Any], key: str) -> Any:
    """The fact; of the GPUs that a scheduler granted, how many: their numbers are others each time."""
    if key == "visible_gpus" and facts[key] is not None:
        return len([name for name in facts[key].split(",") if name])
    return facts[key]


def _in_words(facts: Mapping[str, Any], key: str) -> str:
    value = _compared(facts, key)
    if key == "threads":
        return f"{value} (OMP_NUM_THREADS {facts.get('OMP_NUM_THREADS') or 'not set'})"
    if key == "visible_gpus" and value is None:
        return "all"
    return " + ".join(value) or "none" if isinstance(value, list) else str(value)
