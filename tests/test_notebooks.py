"""The notebooks run from top to bottom, and so do the Python snippets of the guides, in one session each."""

import json
import re
from pathlib import Path

import pytest

from lightrail.project.basics.catalogue import ROOT
from tests.support.children import SECONDS_TO_HANG, Child

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
GUIDES = [ROOT / "README.md", ROOT / "docs" / "python.md"]
PYTHON = re.compile(r"^```python\n((?:.*\n)*?)```$", re.MULTILINE)
SESSION = """
import ast, asyncio, json, sys
import torch

async def cells():  # as in Jupyter, where an event loop is running
    names = {"__name__": "__main__"}
    for source in json.loads(open(sys.argv[1], encoding="utf-8").read()):
        tree = ast.parse(source)
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if shown is not None:
            print(eval(compile(ast.Expression(shown.value), "cell", "eval"), names))

torch.set_num_threads(1)
asyncio.run(cells())
"""
"""Runs the cells of a list, each with its last expression shown, as a notebook does."""


REVIEWS = "text,label\n" + "".join(
    f"第{number}本书{word}啊,{'+' if word in '好美' else '-'}\n" for number in range(30) for word in "好坏美丑"
)
SMALL = """
import lightrail.project.library.runs as runs
whole = runs.configuration_of
sizes = {"width": 16, "depth": 1, "num_heads": 2, "ngram_buckets": 64, "ngram_width": 8}
small = {f"model.encoder.{name}": size for name, size in sizes.items()}
runs.configuration_of = lambda source, settings=None, modules=(): whole(source, {**settings, **small}, modules)
"""
"""Has every run of a guide train a small network."""


def run_cells(sources: list[str], folder: Path) -> str:
    assert sources
    (folder / "reviews.csv").write_text(REVIEWS, encoding="utf-8")
    (folder / "cells.json").write_text(json.dumps(sources), encoding="utf-8")
    session = Child([folder / "cells.json"], program=SESSION, folder=folder)
    out, err = session.communicate(timeout=SECONDS_TO_HANG)
    assert session.returncode == 0, err[-3000:]
    return out


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_notebook_runs(file: Path, tmp_path: Path) -> None:
    book = json.loads(file.read_text("utf-8"))
    assert (book["nbformat"], book["cells"][0]["cell_type"]) == (4, "markdown")
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code), "clear the outputs"
    assert run_cells(["".join(cell["source"]) for cell in code], tmp_path)


@pytest.mark.parametrize("file", GUIDES, ids=lambda file: file.name)
def test_the_python_of_a_guide_runs(file: Path, tmp_path: Path) -> None:
    assert "'prediction': '" in run_cells([SMALL, *PYTHON.findall(file.read_text("utf-8"))], tmp_path)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2
