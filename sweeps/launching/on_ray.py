"""Drivers as tasks of Ray, which places each where the CPUs and GPUs of a trial are free."""

import logging
from typing import Any

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.launching.driver_process import DriverProcess, run_driver
from lightrail.sweeps.search.definition import Sweep

log = logging.getLogger(__name__)

SECONDS_TO_STOP = 90
"""How long drivers may take to have their trials write checkpoints."""


def run_on_ray(sweep: Sweep, driver: DriverProcess, num_drivers: int) -> list[str]:
    """Run drivers; give the last line of each. One whose machine goes away begins again on another.

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
    """What a driver holds: the processes of a trial with their threads and, where the cluster has any, a GPU each."""
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
