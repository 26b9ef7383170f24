"""Files of each format as nested values, so that what they mean can be changed, and written again."""

import csv
import gzip
import io
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import yaml

from benchmarks.fuzz.damage import damage_bytes, replace_file
from benchmarks.fuzz.values import hostile, mutated

Change = Callable[[Path, random.Random], None]


def mutate_file(file: Path, chance: random.Random) -> None:
    """Change a file: mostly what it means, else its bytes or what is in its place.

    A change that its format cannot hold becomes one of its bytes.
    """
    kind = chance.random()
    change = _BY_ENDING.get("".join(file.suffixes[-1:]), _change_lines)
    if kind < 0.6:
        try:
            change(file, chance)
        except Exception:  # a format, or its library, refuses the value
            if file.is_file():  # it may have been removed before
                damage_bytes(file, chance)
    elif kind < 0.85:
        damage_bytes(file, chance)
    else:
        replace_file(file, chance)


def _several(value: Any, chance: random.Random) -> Any:
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        value = mutated(value, chance)
    return value


def _change_json(file: Path, chance: random.Random) -> None:
    value = _several(json.loads(file.read_text("utf-8")), chance)
    file.write_text(json.dumps(value, ensure_ascii=chance.random() < 0.5), "utf-8")


def _change_json_lines(file: Path, chance: random.Random) -> None:
    rows = _several([json.loads(line) for line in file.read_text("utf-8").splitlines()], chance)
    lines = [json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _change_yaml(file: Path, chance: random.Random) -> None:
    value = _several(yaml.safe_load(file.read_text("utf-8")), chance)
    file.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), "utf-8")


def _change_table(file: Path, chance: random.Random) -> None:
    delimiter = "\t" if file.suffix == ".tsv" else ","
    rows = _several(list(csv.reader(file.read_text("utf-8").splitlines(), delimiter=delimiter)), chance)
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(row if isinstance(row, list) else [row] for row in rows)
    file.write_text(text.getvalue(), "utf-8")


def _change_lines(file: Path, chance: random.Random) -> None:
    lines = _several(file.read_text("utf-8").split("\n"), chance)
    file.write_text("\n".join(map(str, lines)), "utf-8")


def _change_gzip(file: Path, chance: random.Random) -> None:
    inner = file.with_suffix("")
    inner.write_bytes(gzip.decompress(file.read_bytes()))
    _BY_ENDING[inner.suffix](inner, chance)
    file.write_bytes(gzip.compress(inner.read_bytes()))
    inner.unlink()


def _change_parquet(file: Path, chance: random.Random) -> None:
    columns = pyarrow.parquet.read_table(file).to_pydict()
    pyarrow.parquet.write_table(_arrow_table(columns, chance), file)


def _arrow_table(columns: dict[str, list[Any]], chance: random.Random) -> pa.Table:
    name = chance.choice(list(columns))
    how = chance.randrange(6)
    if how == 0:
        columns[chance.choice(["other", "", "中", name.upper()])] = columns.pop(name)
    elif how == 1:
        columns[name] = [hostile(chance)] * len(columns[name])
    elif how == 2:
        del columns[name]
    elif how == 3:
        columns = {own: values[: chance.choice([0, 1, 2])] for own, values in columns.items()}
    else:
        columns[name][chance.randrange(len(columns[name]))] = chance.choice([None, "", " ", "new", "x" * 10**5])
    types = [None, pa.large_string(), pa.binary(), pa.float32(), pa.list_(pa.string()), pa.timestamp("s"), pa.null()]
    kind = chance.choice(types) if how == 5 else None
    return pa.table({own: pa.array(v, kind if own == name else None) for own, v in columns.items()})


def _change_arrow(file: Path, chance: random.Random) -> None:
    from datasets import Dataset, load_from_disk

    folder = file.parent
    columns = load_from_disk(str(folder)).to_dict()
    shutil.rmtree(folder)
    Dataset(_arrow_table(columns, chance)).save_to_disk(str(folder))


def _change_checkpoint(file: Path, chance: random.Random) -> None:
    torch.save(_several_tensors(torch.load(file, weights_only=True), chance), file)


def _several_tensors(value: dict[str, Any], chance: random.Random) -> Any:
    weights = value.get("state_dict", value)
    if isinstance(weights, dict) and weights and chance.random() < 0.4:
        name = chance.choice(list(weights))
        weights[name] = _other_tensor(weights[name], chance)
        return value
    return _several(value, chance)


def _other_tensor(tensor: torch.Tensor, chance: random.Random) -> Any:
    others: list[Callable[[], Any]] = [
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.long(),
        lambda: tensor.reshape(-1),
        lambda: tensor[:1],
        lambda: tensor[:0],
        lambda: tensor.unsqueeze(0),
        lambda: torch.full_like(tensor, float("nan")),
        lambda: tensor.to_sparse(),
        lambda: hostile(chance),
    ]
    return chance.choice(others)()


def _change_safetensors(file: Path, chance: random.Random) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    name = chance.choice(list(weights))
    if chance.random() < 0.3:
        weights[f"{name}.other"] = weights.pop(name)
    else:
        weights[name] = _other_tensor(weights[name], chance)
    save_file(weights, file, metadata={"format": "pt"})


def _change_arrays(file: Path, chance: random.Random) -> None:
    array = np.load(file)
    np.save(file, chance.choice([array[:0], array.astype(float), array.reshape(-1)[:3], array[None], -array]))


def _change_image(file: Path, chance: random.Random) -> None:
    from PIL import Image

    with Image.open(file) as image:
        other = image.convert(chance.choice(["1", "L", "P", "RGBA", "CMYK", "I", "F"]))
    sizes = [(1, 1), (1, 500), (3000, 3000), image.size, image.size]
    other.resize(chance.choice(sizes)).save(file, format=chance.choice(["PNG", "TIFF", "GIF", "PPM"]))


def _change_database(file: Path, chance: random.Random) -> None:
    """Change a cell, a row or the layout of a table."""
    with closing(sqlite3.connect(file)) as database, database:
        tables = [
            name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY name")
        ]
        filled = [name for name in tables if database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]
        table = chance.choice(tables if chance.random() < 0.2 else filled)
        column = chance.choice([row[1] for row in database.execute(f'PRAGMA table_info("{table}")')])
        row = f'rowid = (SELECT rowid FROM "{table}" LIMIT 1 OFFSET {chance.randrange(3)})'
        value = hostile(chance)
        database.execute("PRAGMA ignore_check_constraints = 1")
        statements: list[tuple[str, tuple[Any, ...]]] = [
            (
                f'UPDATE "{table}" SET "{column}" = ? WHERE {row}',
                (value if not isinstance(value, list | dict) else "[]",),
            ),
            (f'UPDATE "{table}" SET "{column}" = NULL', ()),
            (f'UPDATE "{table}" SET "{column}" = "{column}" || ?', (chance.choice(["x", "中", "0" * 2000]),)),
            (f'DELETE FROM "{table}" WHERE {row}', ()),
            (f'DELETE FROM "{table}"', ()),
            (f'DROP TABLE "{table}"', ()),
            (f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO other', ()),
        ]
        database.execute(*chance.choice([statements[0], statements[0], *statements]))


_BY_ENDING: dict[str, Change] = {
    ".json": _change_json,
    ".jsonl": _change_json_lines,
    ".yaml": _change_yaml,
    ".csv": _change_table,
    ".tsv": _change_table,
    ".gz": _change_gzip,
    ".parquet": _change_parquet,
    ".arrow": _change_arrow,
    ".ckpt": _change_checkpoint,
    ".safetensors": _change_safetensors,
    ".npy": _change_arrays,
    ".png": _change_image,
    ".db": _change_database,
}
