"""Runs a quick part of the tests with the lowest or the newest versions that `pyproject.toml` allows of our libraries.

    python -m tests.versions lowest
    python -m tests.versions newest

The packages go into a virtual environment in a new temporary folder, which is removed when the tests have passed. Of
the libraries in `NAMES` it holds the lowest or newest versions, of torch that of `constraints.txt`, of everything else
the newest that fits.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from lightrail.project.basics.catalogue import ROOT

NAMES = ("lightning", "mlflow", "optuna", "transformers", "torchmetrics")
EXTRAS = ("chinese", "lora", "dev")
TESTS = (
    "tests/project/test_private_names.py",
    "tests/project/test_fit.py",
    "tests/project/test_resume.py",
    "tests/project/test_predict.py",
    "tests/sweeps/test_trials.py",
    "tests/lightning_modules/test_pinyin.py",
)
STORED = "tests/test_golden.py"
"""With the newest versions only: a store that a newer MLflow has written is none to an older one."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("tests", nargs="*", help="paths of tests in place of the usual ones")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"lightrail-{given.which}-"))
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--use-pep517"]
    subprocess.run([*install, *requirements(given.which)], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)  # exports state lightrail's version
    listing = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    sys.stdout.write("".join(f"{line}\n" for line in listing.splitlines() if line.split()[0] in ("torch", *NAMES)))
    sys.stdout.flush()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "--numprocesses=2",
        "--dist=worksteal",
        *(given.tests or [*TESTS, *([STORED] if given.which == "newest" else [])]),
    ]
    status = subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode
    if status:
        sys.stdout.write(f"the environment is left in {folder}\n")
    else:
        shutil.rmtree(folder)
    return status


def requirements(which: str) -> list[str]:
    """What to give to pip: every requirement of the project, the libraries in `NAMES` pinned when `which` is lowest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in EXTRAS for line in project["optional-dependencies"][extra]),
    ]
    found = [Requirement(line) for line in declared]
    (torch,) = (line for line in (ROOT / "constraints.txt").read_text("utf-8").split() if line.startswith("torch=="))
    pinned = [f"{own.name}=={lower_bound(own)}" for own in found if which == "lowest" and own.name in NAMES]
    return [torch, *pinned, *map(str, found)]


def lower_bound(requirement: Requirement) -> str:
    (bound,) = (own.version for own in requirement.specifier if own.operator == ">=")
    return bound


if __name__ == "__main__":
    sys.exit(main())
