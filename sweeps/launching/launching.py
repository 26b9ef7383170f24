"""A sweep on several machines: drivers of one trial at a time each, where a cluster has room for them."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.launching.driver_process import DriverProcess
from lightrail.sweeps.launching.on_ray import run_on_ray
from lightrail.sweeps.launching.on_slurm import run_on_slurm
from lightrail.sweeps.search.definition import Sweep

log = logging.getLogger(__name__)

Run = Callable[[Sweep, DriverProcess, int], list[str]]
LAUNCHERS: dict[str, Run] = {"ray": run_on_ray, "slurm": run_on_slurm}
"""What runs so many of a driver, and gives the last line of each that has done its part."""


def launch(sweep: Sweep, arguments: Sequence[str]) -> str:
    """Have a cluster run as many drivers as there are to be trials at a time; give the last line of the sweep.

    They share the study, and one of them keeps its MLflow run.

    Args:
        arguments: of the sweep's command.

    Raises:
        ConfigError: before anything is begun.
        KeyboardInterrupt: drivers were stopped; trials wait in the study.
        RuntimeError: all drivers have ended, and none has finished the sweep.
    """
    launcher, workers = sweep.config.launcher, sweep.config.resources.workers
    if workers is None:
        raise ConfigError(f"--launcher {launcher}: how many trials at a time? Give --resources.workers N.")
    if sweep.config.storage.startswith("sqlite"):
        log.warning("storage: %s serves one machine; between several use PostgreSQL", sweep.config.storage)
    threads = sweep.config.resources.threads or 1
    own = ["--launcher=local", "--resources.workers=1", f"--resources.threads={threads}"]
    driver = DriverProcess([*arguments, *own], Path.cwd())
    log.info("%d drivers are begun by %s", workers, launcher)
    lines = LAUNCHERS[launcher](sweep, driver, workers)
    last = [line for line in lines if line.split()[2:3] == ["finished:"]]
    if not last:
        raise RuntimeError("every driver has ended, and none has finished the sweep. The same command goes on with it.")
    return last[0]
