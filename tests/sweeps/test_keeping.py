"""Whose the run of a study is when the process or machine that began it goes away."""

import time
from collections.abc import Callable

import optuna
import pytest

from lightrail.project.tracking.processes import PROCESS_TAG, process_tag
from lightrail.project.tracking.store import open_store
from lightrail.sweeps.command import CONCLUDED
from lightrail.sweeps.search.driver import Driver
from lightrail.sweeps.search.locks import OWNER, become_owner, has_lost_its_owner, heartbeat
from tests.support.children import SECONDS_TO_HANG
from tests.support.sweeping import TinySweep

ELSEWHERE = "another/0 4 1700000000"
HEARTBEAT = 5


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_a_process_keeps_a_study_while_it_says_so(study: optuna.Study) -> None:
    assert not has_lost_its_owner(study, HEARTBEAT), "of nobody nothing is known"
    become_owner(study)
    assert not has_lost_its_owner(study, HEARTBEAT)
    with heartbeat(study, 0.01):
        first = study.user_attrs[OWNER][1]
        deadline = time.monotonic() + SECONDS_TO_HANG
        while study.user_attrs[OWNER][1] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert study.user_attrs[OWNER][1] > first
        assert not has_lost_its_owner(study, HEARTBEAT)
    assert has_lost_its_owner(study, HEARTBEAT), "it has left it"


@pytest.mark.parametrize(
    ("tag", "seconds_ago", "is_lost"),
    [
        (process_tag()[PROCESS_TAG], 1000, False),
        (process_tag()[PROCESS_TAG].rpartition(" ")[0] + " 1", 0, True),
        (ELSEWHERE, 2 * HEARTBEAT, False),
        (ELSEWHERE, 4 * HEARTBEAT, True),
    ],
    ids=["it lives here", "it died here", "it was heard of", "it is not heard of"],
)
def test_a_keeper_is_lost_by_its_death_or_its_silence(
    study: optuna.Study, tag: str, seconds_ago: float, is_lost: bool
) -> None:
    study.set_user_attr(OWNER, (tag, time.time() - seconds_ago))
    assert has_lost_its_owner(study, HEARTBEAT) is is_lost


def test_who_joined_concludes_a_study_whose_machine_went_away(
    tiny_sweep: TinySweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sweep.write(n_trials=1, heartbeat_seconds=HEARTBEAT)
    whole = tiny_sweep.run()
    assert whole.status == 0, whole.err
    run_id = tiny_sweep.parent.run_id
    client = open_store(tiny_sweep.store, create=False)
    client.set_tag(run_id, PROCESS_TAG, ELSEWHERE)
    client.update_run(run_id, "RUNNING")
    tiny_sweep.study.set_user_attr(CONCLUDED, 0)
    tiny_sweep.study.set_user_attr(OWNER, (ELSEWHERE, time.time()))
    joined = tiny_sweep.run()
    assert joined.last_line == f"sweep {run_id} is still running: 1 of 1 trials; its owner will write the report"
    assert tiny_sweep.parent.status == "RUNNING"
    monkeypatch.setattr(Driver, "run", _then(Driver.run, lambda: _fall_silent(tiny_sweep)))
    assert tiny_sweep.run().last_line == whole.last_line
    assert tiny_sweep.parent.status == "FINISHED"


def _fall_silent(sweep: TinySweep) -> None:
    tag, _ = sweep.study.user_attrs[OWNER]
    if tag == ELSEWHERE:
        sweep.study.set_user_attr(OWNER, (ELSEWHERE, time.time() - 4 * HEARTBEAT))


def _then(run: Callable[[Driver], None], then: Callable[[], None]) -> Callable[[Driver], None]:
    def both(driver: Driver) -> None:
        run(driver)
        then()

    return both
