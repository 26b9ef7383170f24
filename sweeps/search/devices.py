"""How a machine is divided between trials."""

import os

import torch

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.hardware import usable_cores
from lightrail.sweeps.search.definition import ResourceConfig


def shares(resources: ResourceConfig, gpus: list[str]) -> tuple[list[list[str]], int]:
    """Give the GPUs of each worker, none on a CPU, and the threads of each process.

    Args:
        gpus: the GPUs that this process may use.

    Raises: ConfigError when there are fewer GPUs than are asked for.
    """
    each = resources.devices
    most = len(gpus) // each if gpus else None
    num_workers = resources.workers or most or 1
    if gpus and num_workers * each > len(gpus):
        raise ConfigError(
            f"resources: {num_workers} workers with {each} devices each need {num_workers * each} GPUs, and there are "
            f"{len(gpus)}. Give fewer."
        )
    threads = resources.threads or max(1, usable_cores() // (num_workers * each))
    return [gpus[number * each : (number + 1) * each] for number in range(num_workers)], threads


def usable_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return []
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
