"""Changes to nested values: what a person, another program or a slip of the hand makes of a setting or a row."""

import copy
import math
import random
from typing import Any

Value = Any
"""None, numbers, texts, and lists and dictionaries of these; leaves may also be tensors and arrays."""

DEEP = 300
"""As deep as YAML is written; texts are deeper (`[` repeated)."""


def _nested(depth: int) -> Value:
    value: Value = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: tuple[Value, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 0.5, -0.5, 1.5, 1e308, -1e308, 1e-320, 2**31, 2**63, -(2**63) - 1, 10**30),
    *(math.nan, math.inf, -math.inf),
    *("", " ", "\t", "\n", "\u3000", "\u200b", "\ufeff", "0", "-1", "1.5", "1e3", "nan", "null", "true", "None"),
    *(
        "中文",
        "nu\u0308",
        "ﬁ",
        "🙂",
        "\x00",
        "\x1b[31mred",
        "\u202e",
        "\ud800",
        "%s{0}",
        "{",
        "[1, 2",
        "- x",
        "# x",
        "[" * 100_000,
    ),
    *("'", '"', "a,b", "a\tb", "../..", "~", ".", "/dev/null", "/dev/zero", "/nowhere/x", "x" * 300, "x" * 100_000),
    *([], {}, [[]], [None], [0, 1], ["a", "b"], {"a": 1}, {"class_path": "x"}, {"class_path": "os.system"}),
    *(b"\xff\xfe", _nested(50)),
)


def hostile(chance: random.Random) -> Value:
    """Return a value that seldom fits."""
    return _nested(DEEP) if chance.random() < 0.01 else copy.deepcopy(chance.choice(HOSTILE))


def mutated(value: Value, chance: random.Random) -> Value:
    """Change one place of a nested value, which is changed itself where that is possible; return the whole."""
    places = list(_places(value))
    if not places:
        return _changed_leaf(value, chance)
    owner, key = chance.choice(places)
    chance.choice(_CHANGES)(owner, key, chance)
    return value


def _places(value: Value) -> list[tuple[Value, Any]]:
    """List every (dictionary or list, key) below a value."""
    found: list[tuple[Value, Any]] = []
    waiting = [value]
    while waiting:
        owner = waiting.pop()
        keys = list(owner) if isinstance(owner, dict) else range(len(owner)) if isinstance(owner, list) else ()
        found += [(owner, key) for key in keys]
        waiting += [owner[key] for key in keys]
    return found


def _replace(owner: Value, key: Any, chance: random.Random) -> None:
    owner[key] = hostile(chance)


def _change(owner: Value, key: Any, chance: random.Random) -> None:
    owner[key] = _changed_leaf(owner[key], chance)


def _delete(owner: Value, key: Any, _: random.Random) -> None:
    del owner[key]


def _rename(owner: Value, key: Any, chance: random.Random) -> None:
    if isinstance(owner, dict):
        name = chance.choice(
            [f"{key}s", f" {key}", str(key).upper(), "", "中", key[:-1] if isinstance(key, str) else key]
        )
        owner[name] = owner.pop(key)
    else:
        owner.insert(key, owner[key])


def _swap(owner: Value, key: Any, chance: random.Random) -> None:
    other = chance.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
    owner[key], owner[other] = owner[other], owner[key]


def _wrap(owner: Value, key: Any, chance: random.Random) -> None:
    owner[key] = chance.choice([[owner[key]], {"value": owner[key]}, str(owner[key])])


def _add(owner: Value, _: Any, chance: random.Random) -> None:
    if isinstance(owner, dict):
        owner[chance.choice(["extra", "text", "label", "lr", "0"])] = hostile(chance)
    else:
        owner.append(hostile(chance))


def _repeat(owner: Value, key: Any, chance: random.Random) -> None:
    if isinstance(owner, list):
        owner *= chance.choice([2, 50])
    else:
        owner[key] = [owner[key]] * 3


_CHANGES = (_replace, _replace, _change, _change, _delete, _delete, _rename, _swap, _wrap, _add, _repeat)


def _changed_leaf(value: Value, chance: random.Random) -> Value:
    """Return a neighbour of a value of the same type, or a hostile one of another."""
    if isinstance(value, bool):
        return chance.choice([not value, int(value), str(value)])
    if isinstance(value, int | float):
        return chance.choice([-value, value + 0.5, value * 1000, 0, value + 1, value - 1, str(value), [value], 10**20])
    if isinstance(value, str) and value:
        place = chance.randrange(len(value))
        more = chance.choice(["", " ", "\u0308", "\u00a0", "中", "\x00", "\r", "x" * 50])
        return chance.choice(
            [value[:place] + more + value[place + 1 :], value * 2, value.upper(), f" {value}", [value]]
        )
    return hostile(chance)
