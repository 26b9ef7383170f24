"""Prints the facts of a machine that results depend on: processor, vector units, cores, memory and versions.

Run: python -m benchmarks.machine
"""

import getpass
import locale
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch

from lightrail.project.provenance.recording import hardware

PACKAGES = ("torch", "lightning", "mlflow", "optuna", "transformers", "torchmetrics", "jsonargparse", "numpy", "pytest")
PROGRAMS = ("git", "g++", "initdb", "nvidia-smi")


def main() -> None:
    units = [name for name, is_there in torch.cpu.get_capabilities().items() if is_there is True]
    lines = {
        **hardware(),
        "vector units": " ".join(units),
        "limited to": " ".join(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ) or "nothing",
        "Python": platform.python_version(),
        "packages": ", ".join(map(_package, PACKAGES)),
        "programs": ", ".join(f"{name} {'' if shutil.which(name) else 'not '}found" for name in PROGRAMS),
        "user": f"{_user()} ({os.getuid()})",
        "locale": f"{locale.setlocale(locale.LC_ALL, None)}, {locale.getpreferredencoding()}",
    }
    for name, value in lines.items():
        print(f"{name:15} {value}")


LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that limit the vector units in use."""


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in a container
        return "unknown"


if __name__ == "__main__":
    main()
