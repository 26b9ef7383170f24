"""A sweep from Python is that of the command, and trials do not run the program that starts them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lightrail
from lightrail.sweeps.trials.process import call_forked
from tests.support.sweeping import TinySweep


def test_a_sweep_gives_its_trials_and_the_best_one(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(n_trials=2)
    definition: dict[str, Any] = {**tiny_sweep.values, "study": "tiny"}
    found = lightrail.sweep(definition, {"n_trials": 2}, allow_modules=["tests.support.callbacks"])
    assert found.last_line.startswith(f"sweep {found.run_id} finished: best/character_accuracy=")
    assert list(found.trials["state"]) == ["complete", "complete"]
    scores = found.trials["val/character_accuracy"]
    best = found.trials.loc[scores.idxmax()]
    assert found.best == {"model.optim.lr": best["model.optim.lr"]}
    assert found.best_run_id == best["run_ids"]
    with pytest.raises(lightrail.ConfigError, match="a sweep given as a mapping has no file to be named after"):
        lightrail.sweep(tiny_sweep.values)


def test_a_started_process_does_not_run_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ModuleType("__main__")
    program.__file__ = str(tmp_path / "program.py")
    Path(program.__file__).write_text("open('it_ran', 'w')", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.chdir(tmp_path)
    assert call_forked(str, 3) == "3"
    assert not (tmp_path / "it_ran").exists()
    assert sys.modules["__main__"] is program
