"""The name a person most likely meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """` Did you mean NAME?` for the one of `names` nearest to `name`, "" when none is near; all of them when few."""
    known = sorted(names)
    by_lower = {known_name.lower(): known_name for known_name in reversed(known)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {prefix}{by_lower[close[0]]}?"
    if 0 < len(known) <= 20:
        return f" Choose from {', '.join(known)}."
    return ""
