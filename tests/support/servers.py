"""A real MLflow server and a real PostgreSQL, to be stopped and started again while something relies on them."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lightrail.project.commands import ui
from tests.support.children import SECONDS_TO_HANG


class MlflowServer:
    """`mlflow server` on a free port of this machine, with its artifacts in `folder`."""

    def __init__(self, store: str, folder: Path) -> None:
        self.port = ui._usable_port(0)
        self.uri = f"http://{ui.HOST}:{self.port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", store, "--registry-store-uri", store),
            *("--serve-artifacts", "--artifacts-destination", str(folder)),
            *("--host", ui.HOST, "--port", str(self.port), "--workers", "1", "--uvicorn-opts", "--log-level critical"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=ui._environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + SECONDS_TO_HANG
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError(f"MLflow's server does not answer at {self.uri}")

    def hang(self) -> None:
        """Take connections, and say nothing more."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


class Postgres:
    """A cluster of its own in `folder`, which the user who runs it must reach."""

    def __init__(self, folder: Path) -> None:
        self.port = ui._usable_port(0)
        self.uri = f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"
        self._folder = folder
        self._user = _unprivileged() if os.getuid() == 0 else None  # PostgreSQL does not run as root
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "--pgdata", str(folder / "data"), "--username=postgres", "--auth=trust", "--no-sync")

    @staticmethod
    def missing() -> str:
        """Why there can be none here; "" when there can."""
        if importlib.util.find_spec("psycopg2") is None:
            return "psycopg2 is not installed"
        if _binaries() is None:
            return "PostgreSQL is not installed"
        is_root_alone = os.getuid() == 0 and _unprivileged() is None
        return "PostgreSQL does not run as root, and this machine has no other user" if is_root_alone else ""

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("start", "-w", "-l", str(self._folder / "log"), "-o", options)

    def kill(self) -> None:
        self._control("stop", "-w", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "--pgdata", str(self._folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        binaries = _binaries()
        assert binaries is not None
        owner = self._user
        subprocess.run(
            [str(binaries / program), *arguments],
            check=True,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
        )


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A cluster that is running; where there can be none the test is skipped."""
    if reason := Postgres.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="lightrail-postgres-"))  # pytest's folders are closed to another user
    try:
        postgres = Postgres(folder)
        postgres.start()
        yield postgres
        postgres.kill()
    finally:
        shutil.rmtree(folder)


def _unprivileged() -> pwd.struct_passwd | None:
    """The user that a package of PostgreSQL makes, or whoever else is not root."""
    users = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid != 0}
    return users.get("postgres") or users.get("nobody") or next(iter(users.values()), None)


def _binaries() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
