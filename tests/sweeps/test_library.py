"""A sweep from Python is that of the command, and trials do not run the program that starts them."""

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

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
    assert found.best_run_id is not None
    check_the_registry_answers(tiny_sweep, found.best_run_id)
    with pytest.raises(lightrail.ConfigError, match="a sweep given as a mapping has no file to be named after"):
        lightrail.sweep(tiny_sweep.values)


def check_the_registry_answers(sweep: TinySweep, best: str) -> None:
    """See that MLflow loads the winner by its registered name, and that it predicts as its run does."""
    version = MlflowClient(sweep.store).get_model_version_by_alias("tiny", "best")
    assert version.run_id == best
    expected = lightrail.load(best, tracking_uri=sweep.store, allow_modules=["tests.support.callbacks"])(["ni hao"])
    mlflow.set_tracking_uri(sweep.store)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow, when pyfunc is imported
            model = importlib.import_module("mlflow.pyfunc").load_model("models:/tiny@best")
        (column,) = model.metadata.signature.inputs.input_names()
        assert model.predict(pd.DataFrame({column: ["ni hao"]})).to_dict("records") == expected
    finally:
        mlflow.set_tracking_uri(None)  # one that was read and set again would be fixed


def test_a_started_process_does_not_run_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ModuleType("__main__")
    program.__file__ = str(tmp_path / "program.py")
    Path(program.__file__).write_text("open('it_ran', 'w')", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.chdir(tmp_path)
    assert call_forked(str, 3) == "3"
    assert not (tmp_path / "it_ran").exists()
    assert sys.modules["__main__"] is program
