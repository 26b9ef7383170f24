"""Drivers as jobs of SLURM, submitted as one array by submitit and queued again when their time is over."""

import logging
from typing import Any

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.launching.driver_process import DriverProcess
from lightrail.sweeps.search.definition import Sweep

log = logging.getLogger(__name__)

SIGNAL_SECONDS = 120
"""How long before its time is over a job begins to stop, which it does within 60."""


def run_on_slurm(sweep: Sweep, driver: DriverProcess, num_drivers: int) -> list[str]:
    """Run drivers, and wait for them; give the last line of each.

    Raises:
        ConfigError: submitit is not installed, there is no SLURM, or it takes no such parameter.
        KeyboardInterrupt: after the jobs have been told to stop.
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
