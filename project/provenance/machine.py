"""The hardware under a run, with what moves the last digits of its numbers."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

from lightrail.project.basics.hardware import usable_cores

COMMAND_SECONDS = 10
UNITS = ("amx_bf16", "avx512_bf16")
"""Parts of a CPU by which the number format or the order of sums is chosen."""


def hardware() -> dict[str, Any]:
    """Return what is known of machine, threads and arithmetic libraries, as plain values."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "instructions": _instructions(),
        "arithmetic": _arithmetic(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _instructions() -> str:
    """What PyTorch's own loops are compiled for, and the units of `UNITS` that there are."""
    there = torch.cpu.get_capabilities()
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(unit for unit in UNITS if there.get(unit))])


def _arithmetic() -> str:
    """The libraries that multiply matrices, with their versions."""
    built = torch.__config__.show()
    patterns = {
        "BLAS": r"BLAS_INFO=(\w+)",
        "MKL": r"Math Kernel Library Version ([\d.]+)",
        "oneDNN": r"MKL-DNN v([\d.]+)",
    }
    found = {name: re.search(pattern, built) for name, pattern in patterns.items()}
    return " ".join(f"{name} {match[1]}" for name, match in found.items() if match)


def _gpus() -> list[str]:
    # not torch.cuda: it would start CUDA in this process, and processes forked from it could not use it any more
    listing = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(listing, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor()
