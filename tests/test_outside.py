"""A task of a package of its own, installed beside lightrail, is used like a shipped one without naming its modules."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightrail.project.basics.catalogue import ROOT
from tests.support.installed import run

CODE = re.compile(r"```(?:python|toml)\n(.*?)```", re.DOTALL)


def test_the_guide_shows_the_package_as_it_is() -> None:
    package = ROOT / "tests" / "outside" / "number_words"
    sources = [file.read_text("utf-8") for file in (*package.rglob("*.py"), package / "pyproject.toml")]
    shown = CODE.findall((ROOT / "docs" / "own_task.md").read_text("utf-8"))
    assert len(shown) == 6
    assert [text for text in shown if not any(text in source for source in sources)] == []


@pytest.fixture
def package(lightrail: Path, tmp_path: Path) -> Path:
    """Install the package, as it stands in `outside`, beside lightrail; return a copy of its folder."""
    folder = shutil.copytree(ROOT / "tests" / "outside" / "number_words", tmp_path / "number_words")
    install = [sys.executable, "-m", "pip", "--python", str(lightrail), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-build-isolation", str(folder)], check=True, capture_output=True)
    shutil.rmtree(folder / "number_words")  # what is installed is used
    return folder


def test_a_task_of_an_installed_package_keeps_the_contract_and_is_used_by_every_command(
    lightrail: Path, package: Path
) -> None:
    run(lightrail, package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_number_words.py")
    printed = run(lightrail, package, str(ROOT / "tests" / "outside" / "commands.py"))
    assert "number_words.task.NumberSpeller" in printed
    assert "number_words.data.NumberData" in printed
    (row,) = [json.loads(line) for line in (package / "words.jsonl").read_text().splitlines()]
    assert row["text"] == "7"
    assert '"weighted_accuracy"' in (package / "compared.json").read_text()
    figures = list(package.glob("mlruns/*/*/artifacts/figures/lengths_of_answers.png"))
    assert len(figures) == 3, "of two runs and a trial"
    assert (package / "exported" / "model.safetensors").exists()
