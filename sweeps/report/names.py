"""Settings as people read them in a table: names cut to what tells them apart, numbers to what they are told by."""

from collections.abc import Collection, Mapping
from typing import Any


def short_names(names: Collection[str]) -> dict[str, str]:
    """Give each dotted name the end that no other shares; of an end with many parts its first and last one.

    >>> list(short_names(["model.optim.lr", "net.lstm.model.depth", "net.cnn.model.depth"]).values())
    ['lr', 'lstm…depth', 'cnn…depth']
    """
    ends = {name: _own_end(name, names) for name in names}
    short = {name: end if len(end) < 3 else [end[0] + "…" + end[-1]] for name, end in ends.items()}
    joined = {name: ".".join(parts) for name, parts in short.items()}
    is_clear = len(set(joined.values())) == len(joined)
    return joined if is_clear else {name: ".".join(end) for name, end in ends.items()}


def _own_end(name: str, names: Collection[str]) -> list[str]:
    parts = name.split(".")
    for size in range(1, len(parts)):
        if not any(other != name and other.split(".")[-size:] == parts[-size:] for other in names):
            return parts[-size:]
    return parts


def short_value(value: Any) -> str:
    """A chosen value in few characters.

    >>> short_value(0.00123456), short_value(3), short_value("lstm"), short_value(None)
    ('0.00123', '3', 'lstm', 'null')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def named(settings: Mapping[str, Any], short: Mapping[str, str]) -> list[str]:
    """Give each setting as `name=value`."""
    return [f"{short[name]}={short_value(value)}" for name, value in settings.items()]
