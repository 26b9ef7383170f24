"""What is known of encoded splits beside their rows, and kept with them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightrail.datamodules.cache import is_finished

Facts = dict[str, Any]
"""What a module must know of its data (vocabulary, labels): plain values, passed to it when the run is built."""
ABOUT = "about.json"


class About(NamedTuple):
    """Plain values."""

    facts: Facts
    digests: Mapping[str, str]
    """Of the content of each split, before it was encoded."""
    files: Sequence[str]
    """By the number that stands in the rows' column `file`."""
    notes: Mapping[str, Mapping[str, Any]]
    """The `ReadingNotes` of each split's source."""


def is_encoded_with(facts: Facts, folder: Path) -> bool:
    """Whether a finished cache was encoded with these facts: those a module takes, which may not be all.

    JSON compares the order inside each, which counts.
    """
    if not is_finished(folder):
        return False
    own = read_about(folder)["facts"]
    return all(name in own and json.dumps(own[name]) == json.dumps(fact) for name, fact in facts.items())


def read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about


def empty_split(name: str, path: str, own: str | None, counts: Mapping[str, int]) -> str:
    """Say that a split has no examples, and what to do."""
    found = ", ".join(f"{count} {split}" for split, count in counts.items())
    if name == "train":
        return f"{path}: no examples to train on ({found}). Give more rows, or smaller validation and test fractions."
    if own:
        return (
            f"{own}: no {name} examples ({found}): nothing in it is an example, or all repeat those of the test split. "
            f"Give other rows, or set data.split.drop_repeats=false."
        )
    return (
        f"{path}: no {name} examples ({found}). "
        f"Give more rows, a larger data.split.{name}_fraction, or data.{name}_path."
    )
