"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, names: Iterable[str], *, most: int = 1, least_alike: float = 0.6) -> list[str]:
    """Return the `names` most similar to `name`, case ignored, most similar first; [] when none is similar.

    Args:
        most: maximum number of names.
        least_alike: fraction of characters that must agree, 0 to 1.
    """
    folded = {known.casefold(): known for known in sorted(names, reverse=True)}
    wanted = name[:200].casefold()  # a megabyte takes minutes
    return [folded[found] for found in difflib.get_close_matches(wanted, folded, n=most, cutoff=least_alike)]


def did_you_mean(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return ` Did you mean NAME?` for the most similar name; without one, all names when there are at most 20."""
    known = sorted(names)
    if near := nearest(name, known):
        return f" Did you mean {prefix}{near[0]}?"
    if 0 < len(known) <= 20:
        return f" Choose from {', '.join(known)}."
    return ""


def first_names(names: Sequence[str], most: int = 10) -> str:
    """Join the first names, each cut at 80 characters, with "..." for the others.

    >>> first_names(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    shortened = (name if len(name) <= 80 else f"{name[:77]}..." for name in names[:most])
    return ", ".join(shortened) + (", ..." if len(names) > most else "")
