"""A sweep goes on, or ends with a message, when the processes that it starts others from are ended from outside."""

import os
import signal
from multiprocessing import forkserver
from typing import Any

import pytest

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.trials import process
from lightrail.sweeps.trials.process import CONTEXT, call_forked, warm_up


def end_itself() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def same(text: str) -> str:
    return text


def test_a_rehearsal_that_is_killed_is_one_message() -> None:
    with pytest.raises(ConfigError, match="the process that checks the sweep was ended from outside 2 times"):
        call_forked(end_itself)


def test_a_killed_fork_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it was found alive, and before the process is forked."""
    warm_up()
    server: Any = forkserver._forkserver
    find, num_calls = server.ensure_running, list[int]()

    def kill_it() -> None:
        find()
        if not num_calls:
            os.kill(server._forkserver_pid, signal.SIGKILL)
        num_calls.append(1)

    monkeypatch.setattr(server, "ensure_running", kill_it)
    assert call_forked(same, "done") == "done"
    assert len(num_calls) >= 2


def test_where_no_process_can_be_started_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(process, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(CONTEXT.Process, "start", refuse)
    with pytest.raises(ConfigError, match=r"no process can be started: .*Cannot allocate memory"):
        call_forked(same, "done")
