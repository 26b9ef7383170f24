"""What a person most likely meant, and what there is to choose from."""

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, names: Iterable[str], *, most: int = 1, least_alike: float = 0.6) -> list[str]:
    """Those of `names` that are most like `name`, whatever their case, the nearest first; [] when none is near.

    Args:
        least_alike: share of characters that must agree, 0 to 1.
    """
    folded = {known.casefold(): known for known in sorted(names, reverse=True)}
    return [folded[found] for found in difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=least_alike)]


def did_you_mean(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """` Did you mean NAME?` for the one of `names` nearest to `name`, "" when none is near; all of them when few."""
    known = sorted(names)
    if near := nearest(name, known):
        return f" Did you mean {prefix}{near[0]}?"
    if 0 < len(known) <= 20:
        return f" Choose from {', '.join(known)}."
    return ""


def first_names(names: Sequence[str], most: int = 10) -> str:
    """Some of what there is.

    >>> first_names(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
