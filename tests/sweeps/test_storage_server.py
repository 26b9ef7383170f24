"""Drivers that share a database on a server, as those of several machines do.

Skipped where there is no PostgreSQL: its programs (`apt-get install postgresql`) and psycopg2 have to be installed.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from lightrail.sweeps.search.locks import StudyLock
from lightrail.sweeps.search.study import DRIVER, RUNS, finished
from tests.support.children import SECONDS_TO_HANG, wait_for
from tests.support.servers import running_postgres
from tests.support.sweeping import TinySweep

SLOW = ["--trainer.callbacks.seconds=0.3", "--tracking.checkpoint.every_steps=2"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a PostgreSQL."""
    with running_postgres() as postgres:
        RDBStorage(postgres.uri)  # creates the tables
        yield postgres.uri


@dataclass
class SharedSweep(TinySweep):
    """A sweep whose study is in a server's database."""

    server: str = ""

    @property
    def storage(self) -> str:
        return self.server

    @cached_property
    def opened(self) -> RDBStorage:
        """One for all that is asked: a server has no connection for each question."""
        return RDBStorage(self.server)

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="tiny", storage=self.opened)


class Holder(threading.Thread):
    """Takes a turn, and keeps it until it is told to end it."""

    def __init__(self, turn: StudyLock) -> None:
        super().__init__(daemon=True)
        self.lock, self.has_it, self.may_end = turn, threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with suppress(OperationalError), self.lock.held():
            self.has_it.set()
            self.may_end.wait(SECONDS_TO_HANG)

    def end(self) -> None:
        self.may_end.set()
        self.join(SECONDS_TO_HANG)
        assert not self.is_alive()


def test_a_turn_is_one_drivers_among_all_that_share_the_database(server: str) -> None:
    first, second = StudyLock(RDBStorage(server), "study"), StudyLock(RDBStorage(server), "study")
    holder = Holder(first)
    assert holder.has_it.wait(SECONDS_TO_HANG)
    other = Holder(second)
    assert not other.has_it.wait(0.5)
    with StudyLock(RDBStorage(server), "another study").held():
        pass
    holder.end()
    assert other.has_it.wait(SECONDS_TO_HANG)
    other.end()
    with first.held() as release:
        release()
        last = Holder(second)
        assert last.has_it.wait(SECONDS_TO_HANG), "before the block ends"
        last.end()


def test_a_turn_ends_with_the_connection_of_who_has_it(server: str) -> None:
    storage = RDBStorage(server)
    turn = StudyLock(storage, "study")
    holder = Holder(turn)
    assert holder.has_it.wait(SECONDS_TO_HANG)
    other = Holder(StudyLock(RDBStorage(server), "study"))
    assert not other.has_it.wait(0.5)
    others = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with storage.engine.connect() as connection:
        connection.execute(sqlalchemy.text(others))
    assert other.has_it.wait(SECONDS_TO_HANG), "as when the machine of the holder has died"
    other.end()
    holder.end()
    again = Holder(turn)
    assert again.has_it.wait(SECONDS_TO_HANG), "the holder's other workers are not held back for ever"
    again.end()


def test_two_drivers_share_a_study_on_a_server_one_of_which_is_killed(tiny_sweep: TinySweep, server: str) -> None:
    sweep = SharedSweep(tiny_sweep.folder, tiny_sweep.store, server=server)
    sweep.write(*SLOW, n_trials=3, resources={"workers": 1, "threads": 1}, heartbeat_seconds=1)
    first, second = sweep.start(), sweep.start()
    wait_for(lambda: len(in_progress(sweep)) == 2, second)
    first.send_signal(signal.SIGKILL)
    told = [driver.communicate() for driver in (first, second)]
    assert [driver.returncode for driver in (first, second)] == [-signal.SIGKILL, 0], told
    done = finished(sweep.study)
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 3
    assert not sweep.numbers(TrialState.RUNNING, TrialState.WAITING)
    assert len(sweep.numbers(TrialState.FAIL)) == 1, "that of the driver which was killed"
    assert len({trial.user_attrs[DRIVER] for trial in sweep.trials}) == 2
    assert {run.run_id for run in sweep.children} == {trial.user_attrs[RUNS]["0"] for trial in done}
    assert {run.status for run in sweep.children} == {"FINISHED"}
    assert len({trial.params["model.optim.lr"] for trial in done}) == 3, "none was tried twice"
    assert sweep.parent.status == "FINISHED"


def in_progress(sweep: TinySweep) -> list[int]:
    """Trials that train and have been validated."""
    return [trial.number for trial in sweep.study.get_trials(states=[TrialState.RUNNING]) if trial.intermediate_values]
