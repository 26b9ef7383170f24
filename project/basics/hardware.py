"""Settings that follow from the machine: number format and threads."""

import os
import resource
import sys
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


def usable_accelerator(accelerator: str) -> str:
    """Resolve "auto" to "gpu" where CUDA is available, else to "cpu"."""
    if accelerator != "auto":
        return accelerator
    # Not Lightning's own choice: Apple's GPUs lack float64, which exact sums need.
    return "gpu" if torch.cuda.is_available() else "cpu"


def fastest_precision(accelerator: str) -> Precision:
    """Choose the fastest precision for training on this hardware that does not change the result; weights are float32.

    bfloat16 on GPUs and CPU matrix units (AMX) that support it; a CPU without that unit gains nothing from it on
    networks a few hundred wide. float16 on older GPUs.

    Args:
        accelerator: "cpu", "gpu", "cuda" or another one of Lightning's.
    """
    if accelerator in ("gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    has_matrix_unit = accelerator == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16-mixed" if has_matrix_unit else "32-true"


def set_threads(num_processes: int = 1) -> None:
    """Set PyTorch's threads to the usable cores per process, unless OMP_NUM_THREADS is set."""
    # PyTorch counts the machine's cores, though a container or a scheduler may have granted fewer; threads without a
    # core make every step several times slower.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // max(1, num_processes)))


def usable_cores() -> int:
    """Return the number of cores this process may use, by affinity and control group quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no control groups, or of the first version
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
