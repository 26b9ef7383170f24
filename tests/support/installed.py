"""lightrail as its users have it: installed from a wheel, in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lightrail.project.basics.catalogue import ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def lightrail(wheel: Path, tmp_path: Path) -> Path:
    """Return the Python of an environment that the wheel is installed in, beside another vendor's `sweeps`.

    What lightrail needs is found where these tests find it; lightrail itself, as a checkout, is not.
    """
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (packages / "sweeps").mkdir()
    (packages / "sweeps" / "__init__.py").write_text("raise ImportError('of another vendor')")
    install = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return environment / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run Python in a folder, which `-m` looks into first; return what it writes to standard output."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
