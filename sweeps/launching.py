"""A sweep on several machines: drivers of one trial at a time each, placed by Ray or SLURM."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.report.concluding import is_without_result
from lightrail.sweeps.search.definition import Sweep

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


SECONDS_BETWEEN_LOOKS = 0.5


class DriverProcess:
    """Runs `lightrail sweep` in a process of its own, and stops it with a checkpoint when it is itself stopped.

    Args:
        arguments: of the command.
        folder: the working directory, which relative paths in the arguments start from.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str:
        """Run trials until the study holds the requested number; return the command's last line.

        Raises: RuntimeError when the command fails.
        """
        command = [sys.executable, "-m", "lightrail", "sweep", *self.arguments]
        with tempfile.TemporaryFile() as output:
            process = self._process = subprocess.Popen(command, cwd=self.folder, env=_environment(), stdout=output)
            try:
                while process.poll() is None:  # wait() would hold a lock that `checkpoint` needs, in a signal's handler
                    time.sleep(SECONDS_BETWEEN_LOOKS)
            finally:
                self._stop()
            output.seek(0)
            line = output.read().decode().strip().rpartition("\n")[2]
            if process.returncode and not is_without_result(line):
                raise RuntimeError(f"a driver of the sweep ended with status {process.returncode}; see its log")
            return line

    def checkpoint(self) -> "DelayedSubmission":
        """Stop, and return the call for the requeued job; submitit calls this before the job's time is over."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        return DelayedSubmission(DriverProcess(self.arguments, self.folder))

    def _stop(self) -> None:
        """Terminate the command, which writes its trials' checkpoints, and wait for its end."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            process.terminate()
            process.wait()


def run_driver(driver: DriverProcess) -> str:
    """Run a driver: a function, since Ray makes no task of a callable object."""
    return driver()


def _environment() -> dict[str, str]:
    """The environment without the cluster's variables of the job: a trial would take itself for a rank of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}


log = logging.getLogger(__name__)

SECONDS_TO_STOP = 90
"""How long drivers may take to stop, which includes writing their trials' checkpoints."""


def run_on_ray(sweep: Sweep, driver: DriverProcess, num_drivers: int) -> list[str]:
    """Run drivers as Ray tasks; return the last line of each. One whose machine is lost restarts on another.

    Raises:
        ConfigError: Ray is not installed.
        KeyboardInterrupt: after the drivers have stopped.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--launcher ray needs Ray: pip install 'lightrail[ray]'") from error
    ray.init(address=sweep.config.cluster.address, ignore_reinit_error=True, include_dashboard=False)
    try:
        task = ray.remote(max_retries=-1, **_resources(sweep, ray.cluster_resources()))(run_driver)
        return _lines(ray, [task.remote(driver) for _ in range(num_drivers)])
    finally:
        ray.shutdown()


def _resources(sweep: Sweep, cluster: dict[str, float]) -> dict[str, float]:
    """What a driver reserves: the threads of a trial's processes and, if the cluster has GPUs, one for each process."""
    resources = sweep.config.resources
    has_gpus = cluster.get("GPU", 0) > 0
    return {
        "num_cpus": resources.devices * (resources.threads or 1),
        "num_gpus": resources.devices if has_gpus else 0,
    }


def _lines(ray: Any, tasks: list[Any]) -> list[str]:
    lines, waiting = [], tasks
    try:
        while waiting:
            (ended,), waiting = ray.wait(waiting)
            try:
                lines.append(ray.get(ended))
            except ray.exceptions.RayTaskError as error:
                log.warning("%s", error)
    except KeyboardInterrupt:
        for task in waiting:
            ray.cancel(task)
        ray.wait(waiting, num_returns=len(waiting), timeout=SECONDS_TO_STOP)
        raise
    return lines


SIGNAL_SECONDS = 120
"""How long before its time limit a job starts to stop, which takes up to 60 seconds."""


def run_on_slurm(sweep: Sweep, driver: DriverProcess, num_drivers: int) -> list[str]:
    """Run drivers as SLURM jobs, and wait for them; return the last line of each.

    Raises:
        ConfigError: submitit is not installed, there is no SLURM, or it takes no such parameter.
        KeyboardInterrupt: after the jobs have been cancelled.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("--launcher slurm needs submitit: pip install 'lightrail[slurm]'") from error
    jobs = _submit(submitit, sweep, driver, num_drivers)
    log.info("jobs %s; their logs are in %s", ", ".join(job.job_id for job in jobs), sweep.config.cluster.folder)
    try:
        return [line for job in jobs if (line := _line(submitit, job)) is not None]
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
        raise


def _submit(submitit: Any, sweep: Sweep, driver: DriverProcess, num_drivers: int) -> list[Any]:
    cluster, resources = sweep.config.cluster, sweep.config.resources
    asked = {
        "name": "lightrail-sweep",
        "tasks_per_node": 1,
        "cpus_per_task": resources.devices * (resources.threads or 1),
        "slurm_signal_delay_s": SIGNAL_SECONDS,
    }
    try:
        requeues = {f"{cluster.executor}_max_num_timeout": cluster.requeues}
        executor = submitit.AutoExecutor(cluster.folder, cluster=cluster.executor, **requeues)
        executor.update_parameters(**{**asked, **cluster.parameters})
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        raise ConfigError(f"cluster: submitit refuses: {error}") from error
    with executor.batch():
        return [executor.submit(driver) for _ in range(num_drivers)]


def _line(submitit: Any, job: Any) -> str | None:
    try:
        return str(job.result())
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        log.warning("job %s: %s", job.job_id, error)
        return None


Run = Callable[[Sweep, DriverProcess, int], list[str]]
LAUNCHERS: dict[str, Run] = {"ray": run_on_ray, "slurm": run_on_slurm}
"""Function that runs N copies of a driver and returns the last line of each that succeeded."""


def launch(sweep: Sweep, arguments: Sequence[str]) -> str:
    """Run a driver on a cluster for each of `resources.workers` trials at a time; return the last line of the sweep.

    The drivers share the study, and one of them owns its MLflow run.

    Args:
        arguments: of the sweep's command.

    Raises:
        ConfigError: before anything is started.
        KeyboardInterrupt: drivers were stopped; trials wait in the study.
        RuntimeError: all drivers have ended, and none has finished the sweep.
    """
    launcher, workers = sweep.config.launcher, sweep.config.resources.workers
    if workers is None:
        raise ConfigError(f"--launcher {launcher}: how many trials at a time? Give --resources.workers N.")
    if sweep.config.storage.startswith("sqlite"):
        log.warning("storage: %s serves one machine; use PostgreSQL for several", sweep.config.storage)
    threads = sweep.config.resources.threads or 1
    own = ["--launcher=local", "--resources.workers=1", f"--resources.threads={threads}"]
    driver = DriverProcess([*arguments, *own], Path.cwd())
    log.info("starting %d drivers with %s", workers, launcher)
    lines = LAUNCHERS[launcher](sweep, driver, workers)
    last = [line for line in lines if line.split()[2:3] == ["finished:"]]
    if not last:
        raise RuntimeError("every driver has ended, and none has finished the sweep. Run the same command to resume.")
    return last[0]
