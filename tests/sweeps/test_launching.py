"""A sweep whose drivers a cluster runs: a Ray, and submitit's executor, of this machine."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from lightrail.project.basics.catalogue import ROOT
from lightrail.sweeps.launching import DriverProcess
from lightrail.sweeps.search.study import RUNS
from tests.support.children import SECONDS_TO_HANG
from tests.support.sweeping import TinySweep, processes_of

ON_THIS_MACHINE = ["--launcher=slurm", "--cluster.executor=local", "--cluster.parameters.timeout_min=10"]


@pytest.fixture(autouse=True)
def _callbacks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In what a cluster starts, which does not begin in the checkout."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


@pytest.fixture
def submitit() -> Any:
    return pytest.importorskip("submitit")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small Ray in a folder of its own: no other of this machine is met, and none is left."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the names of sockets may have 107 characters
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(100 * 2**20))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield pytest.importorskip("ray")
    _, left = psutil.wait_procs(_processes_that_name(folder), timeout=SECONDS_TO_HANG)
    assert left == []
    shutil.rmtree(folder)


@pytest.fixture
def two_trials(tiny_sweep: TinySweep) -> TinySweep:
    """Each of which waits for the other: one driver alone would train them both, if it began much sooner."""
    together = ["--trainer.callbacks=Together", f"--trainer.callbacks.folder={tiny_sweep.folder}/begun"]
    tiny_sweep.write(*together, n_trials=2)
    return tiny_sweep


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_runs_two_drivers_of_one_study(two_trials: TinySweep, ray: Any) -> None:
    outcome = two_trials.run("--launcher=ray")
    assert outcome.status == 0, outcome.err
    _check_is_whole(two_trials, outcome.last_line)


def test_submitit_runs_two_drivers_of_one_study(two_trials: TinySweep, submitit: Any) -> None:
    outcome = two_trials.run(*ON_THIS_MACHINE)
    assert outcome.status == 0, outcome.err
    _check_is_whole(two_trials, outcome.last_line)
    assert list((two_trials.folder / "sweep_jobs").glob("*.err")), "where the logs of jobs are"


def test_a_job_whose_time_is_over_goes_on_with_its_trial(tiny_sweep: TinySweep, submitit: Any) -> None:
    tiny_sweep.write("--trainer.callbacks.seconds=0.3", n_trials=1)
    driver = DriverProcess([*tiny_sweep.command[1:], "--resources.workers=1"], tiny_sweep.folder)
    executor = submitit.AutoExecutor(tiny_sweep.folder / "sweep_jobs", cluster="local", local_max_num_timeout=5)
    executor.update_parameters(timeout_min=10)
    job = executor.submit(driver)
    _wait_for_a_report(tiny_sweep)
    (before,) = [trial for trial in tiny_sweep.trials if trial.state == TrialState.RUNNING]
    (task,) = psutil.Process(int(job.job_id)).children()  # what SLURM sends its warning to
    task.send_signal(signal.SIGUSR2)
    assert job.result().startswith(f"sweep {tiny_sweep.parent.run_id} finished: ")
    assert tiny_sweep.numbers(TrialState.COMPLETE) == [before.number + 1]
    again = tiny_sweep.trials[before.number + 1]
    assert again.user_attrs[RUNS] == before.user_attrs[RUNS], "in the same MLflow run"
    assert len(tiny_sweep.children) == 1


def test_a_driver_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # in the place of Python, whose imports take time
    with pytest.raises(RuntimeError, match="ended with status 1"):
        DriverProcess(["--config=nothing.yaml"], tmp_path)()


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_whose_package_is_missing_is_refused(
    launcher: str, package: str, tiny_sweep: TinySweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sweep.write()
    monkeypatch.setitem(sys.modules, package, None)
    outcome = tiny_sweep.run(f"--launcher={launcher}")
    assert outcome.status == 2
    assert f"pip install 'lightrail[{launcher}]'" in outcome.err
    assert not Path(tiny_sweep.storage.removeprefix("sqlite:///")).exists()


def test_how_many_drivers_has_to_be_said(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(resources={"threads": 1})
    outcome = tiny_sweep.run("--launcher=ray")
    assert outcome.status == 2
    assert "how many trials at a time? Give --resources.workers N." in outcome.err


def test_a_parameter_that_submitit_does_not_know_is_refused(tiny_sweep: TinySweep, submitit: Any) -> None:
    tiny_sweep.write()
    outcome = tiny_sweep.run(*ON_THIS_MACHINE, "--cluster.parameters.partitions=gpu")
    assert outcome.status == 2
    assert "cluster: submitit refuses:" in outcome.err


def _check_is_whole(sweep: TinySweep, last_line: str) -> None:
    assert last_line.startswith(f"sweep {sweep.parent.run_id} finished: ")
    assert sweep.numbers(TrialState.COMPLETE) == [0, 1]
    assert len(sweep.children) == 2
    assert {run.status for run in [sweep.parent, *sweep.children]} == {"FINISHED"}
    drivers = {trial.user_attrs["driver"] for trial in sweep.trials}
    assert len(drivers) == 2, "each takes its part"
    own = psutil.Process().children(recursive=True)  # what trials are forked from, which this process keeps
    _, left = psutil.wait_procs([one for one in processes_of(sweep.folder) if one not in own], timeout=SECONDS_TO_HANG)
    assert left == []


def _processes_that_name(folder: str) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if any(folder in word for word in process.info["cmdline"] or [])]


def _wait_for_a_report(sweep: TinySweep) -> None:
    deadline = time.monotonic() + SECONDS_TO_HANG
    while time.monotonic() < deadline:
        try:
            if any(trial.intermediate_values for trial in sweep.trials):
                return
        except (KeyError, ValueError):  # the study does not exist yet
            pass
        time.sleep(0.1)
    pytest.fail("no trial has begun")
