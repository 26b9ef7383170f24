"""Runs from Python are those of the commands, and leave the process as they found it."""

import asyncio
import contextlib
import io
import json
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightrail
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.findings import rules
from lightrail.project.library.calling import calling, refusing
from tests.support.callbacks import Interrupt

from tests.support.running import Fitted, RecordedRun, lightrail as command, runs_in  # isort: skip


@pytest.fixture
def values(fitted_classifier: Fitted, store: str) -> dict[str, Any]:
    """The whole configuration of a run that a command made, for another store."""
    return {**parse(fitted_classifier.arguments).values, "tracking": {"uri": store}}


def state_of_the_process() -> dict[str, Any]:
    numbers: Any = np.random.get_state()[1]  # type: ignore[index]
    return {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "random": (random.getstate(), torch.get_rng_state().tolist(), numbers.tolist()),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "filters": list(warnings.filters),
        "handlers": {name: list(logging.getLogger(name).handlers) for name in ("", "lightning", "lightning.pytorch")},
        "levels": logging.getLogger("lightrail").level,
    }


def test_a_run_is_that_of_the_command_and_leaves_the_process_as_it_was(
    values: dict[str, Any], fitted_classifier: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "RULES", {"inputs-cut": ("note", lambda _: "all were cut")})
    logging.getLogger("lightning.pytorch").addHandler(logging.NullHandler())
    before = state_of_the_process()
    run = lightrail.fit(values, {"name": "from Python", "trainer.callbacks": None})
    assert state_of_the_process() == before
    assert run.metrics == {n: v for n, v in fitted_classifier.metrics.items() if n.startswith("test/")}
    assert run.predictions is not None
    assert run.predictions.equals(fitted_classifier.predictions.replace_schema_metadata())
    assert (run.status, run.directory) == ("FINISHED", RecordedRun(run.store, run.run_id).directory)
    assert [(own.code, own.message) for own in run.findings] == [("inputs-cut", "all were cut.")]
    assert run.last_line.split()[2:] == fitted_classifier.outcome.last_line.split()[2:]


def test_a_call_restores_threads_environment_and_handlers_also_after_an_error() -> None:
    before = state_of_the_process()
    with pytest.raises(ZeroDivisionError), calling():  # noqa: PT012
        torch.set_num_threads(3)
        os.environ.pop("OMP_NUM_THREADS")
        os.environ["LIGHTRAIL_RUN"] = "x"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        random.seed(3)
        raise ZeroDivisionError
    assert state_of_the_process() == before


def test_log_lines_are_shown_unless_the_program_has_set_up_logging(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("lightrail.project")
    with calling():
        log.info("to the handlers of the program")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("lightrail"), "level", logging.NOTSET)  # which a command sets
    with calling():
        log.info("on standard error")
    assert capfd.readouterr().err.endswith("INFO on standard error\n")
    with calling(shows_lines=False):
        log.info("nowhere")
    assert capfd.readouterr().err == ""


def test_a_run_in_an_event_loop_of_another_thread(values: dict[str, Any], fitted_classifier: Fitted) -> None:
    runs: list[lightrail.Run] = []

    async def cell() -> None:
        runs.append(lightrail.fit(values))

    thread = threading.Thread(target=lambda: asyncio.run(cell()))
    thread.start()
    thread.join()
    assert [run.metrics for run in runs] == [fitted_classifier.outcome.metrics | dict(runs[0].metrics)]
    assert runs[0].status == "FINISHED"
    assert runs[0].metrics["test/loss"] == fitted_classifier.metrics["test/loss"]


def test_an_interrupted_run_is_killed_and_resumed(
    values: dict[str, Any], fitted_classifier: Fitted, store: str, tmp_path: Path
) -> None:
    stop = {"class_path": Interrupt, "init_args": {"step": 2, "marker": tmp_path / "marker"}}
    with pytest.raises(KeyboardInterrupt):
        lightrail.fit(values, {"trainer.callbacks": [stop]})
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (killed,) = runs_in(store)
    assert killed.status == "KILLED"
    with pytest.raises(ConfigError, match="outside the packages a configuration may name"):
        lightrail.resume(killed.run_id, {"tracking.uri": store})
    run = lightrail.resume(killed.run_id, {"tracking.uri": store, "trainer.callbacks": None})
    assert (run.run_id, run.status) == (killed.run_id, "FINISHED")
    assert run.metrics["test/loss"] == fitted_classifier.metrics["test/loss"]
    with pytest.raises(ConfigError, match="is finished"):
        lightrail.resume(run)


def test_several_seeds_are_a_group_and_comparisons_have_the_values_of_the_command(
    values: dict[str, Any], store: str
) -> None:
    group = lightrail.fit(values, {"steps": 2}, seeds=2)
    assert group.metrics.keys() >= {"test/loss", "test/loss_sd"}
    assert (group.directory / "seeds.csv").is_file()
    table = lightrail.runs(settings=["trainer.max_steps", "model.encoder.width"], tracking_uri=store)
    assert list(table["kind"]) == ["fit", "fit", "seeds"]
    assert list(table["parent"][:2]) == [group.run_id] * 2
    assert list(table["trainer.max_steps"]) == ["2"] * 3
    assert list(table["model.encoder.width"]) == ["16"] * 3
    assert table["test/loss"].iloc[2] == group.metrics["test/loss"]
    ids = list(table["run_id"][:2])
    compared = lightrail.compare(*ids, resamples=100, tracking_uri=store)
    printed = command("compare", *ids, "--resamples=100", "--format=json", f"--tracking.uri={store}")
    assert compared.values == json.loads(printed.out)
    assert str(compared) == command("compare", *ids, "--resamples=100", f"--tracking.uri={store}").out
    assert list(compared.table["run_id"]) == ids
    assert compared.html.startswith("<!doctype html>")


REFUSED: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "no such experiment": (["text_clasification"], {}),
    "no such setting": (["text_classification", "--data.pth=x"], {"data.pth": "x"}),
    "no such file": (["text_classification", "--data.path=none.csv"], {"data.path": "none.csv"}),
    "a number that is none": (["text_classification", "--lr=fast"], {"lr": "fast"}),
    "a name that is too long": (["text_classification", f"--data.path={'x' * 5000}"], {"data.path": "x" * 5000}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_command_refuses_is_raised_with_its_message(what: str, store: str) -> None:
    arguments, settings = REFUSED[what]
    printed = command("fit", *arguments, f"--tracking.uri={store}")
    assert printed.status == 2
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises((ConfigError, lightrail.DataError)) as raised:
        lightrail.fit(arguments[0], {**settings, "tracking.uri": store})
    assert printed.err.splitlines()[-1] == f"lightrail: error: {raised.value}"
    assert "error" not in err.getvalue()
    assert runs_in(store) == []


def test_errors_of_programs_and_of_stores() -> None:
    with pytest.raises(ZeroDivisionError), refusing():
        raise ZeroDivisionError
    error = type("OperationalError", (Exception,), {"__module__": "sqlalchemy.exc"})
    with (
        pytest.raises(ConfigError, match="the database of the runs or of the study cannot be used"),
        refusing(),
    ):
        raise error("locked")


def test_a_check_says_what_the_command_prints(values: dict[str, Any], fitted_classifier: Fitted) -> None:
    found = lightrail.check(values)
    lines = command("check", *fitted_classifier.arguments).out.splitlines()
    is_measured = ("memory", "run ", "step ")
    assert [own for own in str(found).splitlines() if not own.startswith(is_measured)] == [
        own for own in lines if not own.startswith(is_measured)
    ]
    assert found.measured.num_parameters > 0
