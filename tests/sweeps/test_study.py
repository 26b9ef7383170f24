"""What counts of a study, what goes on in it, and who may open it."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from lightrail.project.basics.errors import ConfigError
from lightrail.project.tracking.processes import PROCESS_TAG, Owner, process_tag
from lightrail.sweeps.search import study as studies
from lightrail.sweeps.search.study import (
    DRIVER,
    FAILURE,
    PROCESS,
    RUNS,
    WARM_START,
    end_orphans,
    finished,
    is_finished,
    open_storage,
    open_study,
    origin,
    restore_interrupted,
)
from tests.support.children import SECONDS_TO_HANG
from tests.support.made_studies import SPACE, make_sweep

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning"),
]
HERE = process_tag()[PROCESS_TAG]
DEAD = Owner.of(psutil.Process())._replace(created=1).tag
"""A process of this machine whose number another one has now."""
ELSEWHERE = Owner.of(psutil.Process())._replace(machine="elsewhere/0").tag


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return open_storage(
        make_sweep(tmp_path, f"sqlite:///{tmp_path}/runs.db", storage=f"sqlite:///{tmp_path}/sweeps.db")
    )


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(study_name="tiny", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))


def begin(study: optuna.Study, **attributes: Any) -> optuna.Trial:
    """A trial in progress."""
    trial = study.ask()
    trial.suggest_float("lr", 0, 1)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    return trial


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize(
    ("state", "attributes", "counts"),
    [
        (TrialState.COMPLETE, {}, True),
        (TrialState.PRUNED, {}, True),
        (TrialState.FAIL, {FAILURE: {"reason": "crash", "log": ""}}, True),
        (TrialState.FAIL, {}, False),
        (TrialState.RUNNING, {}, False),
        (TrialState.WAITING, {}, False),
        (TrialState.COMPLETE, {WARM_START: "run a"}, False),
    ],
)
def test_what_counts_towards_the_target(state: TrialState, attributes: dict[str, Any], counts: bool) -> None:
    value = 1.0 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, user_attrs=attributes)
    assert is_finished(trial) is counts


@pytest.mark.parametrize("driver", [None, DEAD], ids=["of nobody", "of a dead process"])
def test_a_trial_that_nobody_drives_goes_on_once(study: optuna.Study, driver: str | None) -> None:
    begun = begin(study, **{RUNS: {"0": "run"}}, **({} if driver is None else {DRIVER: driver}))
    restore_interrupted(study)
    restore_interrupted(study)
    assert states(study) == ["FAIL", "WAITING"]
    before, copy = study.get_trials(deepcopy=False)
    assert copy.user_attrs[RUNS] == {"0": "run"}
    assert (origin(before), origin(copy)) == (0, 0)
    again = study.ask()
    assert (again.number, again.suggest_float("lr", 0, 1)) == (1, begun.params["lr"])
    again.set_user_attr(DRIVER, DEAD)
    restore_interrupted(study)
    restore_interrupted(study)
    assert states(study) == ["FAIL", "FAIL", "WAITING"]
    assert [origin(trial) for trial in study.get_trials(deepcopy=False)] == [0, 0, 0]
    assert finished(study) == []


def test_a_trial_of_somebody_is_left_alone(study: optuna.Study, storage: RDBStorage) -> None:
    begin(study, **{DRIVER: HERE})
    begin(study, **{DRIVER: DEAD, PROCESS: HERE})  # whose training has not ended yet
    elsewhere = begin(study, **{DRIVER: ELSEWHERE})
    storage.record_heartbeat(elsewhere._trial_id)
    failed = begin(study, **{DRIVER: HERE, FAILURE: {"reason": "crash", "log": ""}})
    study.tell(failed, state=TrialState.FAIL)
    restore_interrupted(study)
    assert states(study) == ["RUNNING", "RUNNING", "RUNNING", "FAIL"]
    assert [trial.number for trial in finished(study)] == [3]


def test_a_trial_of_another_machine_that_is_not_heard_of_goes_on(study: optuna.Study, storage: RDBStorage) -> None:
    trial = begin(study, **{DRIVER: ELSEWHERE})
    storage.record_heartbeat(trial._trial_id)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'"))
    restore_interrupted(study)
    restore_interrupted(study)
    assert states(study) == ["FAIL", "WAITING"]


def test_a_process_that_has_lost_its_driver_is_ended(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "SECONDS_TO_STOP", 0.2)
    sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
    with (
        subprocess.Popen(sleep, start_new_session=True) as orphan,
        subprocess.Popen(sleep, start_new_session=True) as kept,
    ):
        begin(study, **{DRIVER: DEAD, PROCESS: Owner.of(psutil.Process(orphan.pid)).tag})
        begin(study, **{DRIVER: HERE, PROCESS: Owner.of(psutil.Process(kept.pid)).tag})
        begin(study, **{DRIVER: DEAD, PROCESS: DEAD})
        began = time.monotonic()
        end_orphans(study)
        assert 0.2 <= time.monotonic() - began < SECONDS_TO_HANG
        assert (orphan.poll(), kept.poll()) == (-9, None)
        os.killpg(kept.pid, 9)
    restore_interrupted(study)
    assert Counter(states(study)) == {"FAIL": 2, "RUNNING": 1, "WAITING": 2}


def test_a_study_that_searches_over_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/sweeps.db"
    before = make_sweep(tmp_path, storage=address)
    storage = open_storage(before)
    opened = open_study(before, storage)
    assert [direction.name for direction in opened.directions] == ["MAXIMIZE"]
    same = open_study(make_sweep(tmp_path, storage=address, n_trials=99, sampler="RandomSampler"), storage)
    assert same._study_id == opened._study_id
    wider = {**SPACE, "model.optim.lr": {"low": 1e-4, "high": 1, "log": True}}
    assert open_study(make_sweep(tmp_path, storage=address, space=wider, study="other"), storage).study_name == "other"
    edited = make_sweep(tmp_path, storage=address)
    edited = replace(edited, base=[*edited.base, "--data.split.seed=7"])
    with pytest.raises(ConfigError, match=r"other settings: base\.data\.split\.seed had \d+ and has 7 now\. Restore"):
        open_study(edited, storage)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"space": SPACE | {"model.optim.lr": {"low": 1e-4, "high": 1, "log": True}}}, "lr.high had 0.1 and has 1 now"),
        ({"space": SPACE | {"data.batch.size": {"choices": [2, 4, 8]}}}, "choices had [2, 4] and has [2, 4, 8] now"),
        ({"space": SPACE | {"data.batch.size": {"choices": [2, 4.0]}}}, "choices had [2, 4] and has [2, 4.0] now"),
        ({"space": SPACE | {"model.optim.beta2": 0.9}}, "space.model.optim.beta2 had no value and has 0.9 now"),
        ({"space": {"model.optim.lr": SPACE["model.optim.lr"]}}, "space.data.batch.size had {'choices': [2, 4]} and"),
        ({"metric": "val/loss"}, "metric had 'val/character_accuracy' and has 'val/loss' now"),
        ({"direction": "minimize"}, "direction had 'maximize' and has 'minimize' now"),
        ({"seeds": 2}, "seeds had 1 and has 2 now"),
        ({"overrides": {"trainer.max_steps": 3}}, "overrides.trainer.max_steps had no value and has 3 now"),
    ],
    ids=str,
)
def test_a_study_whose_definition_changed_names_what_it_had_and_has(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    address = f"sqlite:///{tmp_path}/sweeps.db"
    before = make_sweep(tmp_path, storage=address)
    storage = open_storage(before)
    open_study(before, storage)
    message = rf"the study 'tiny' in sqlite:.*created with other settings: .*{re.escape(named)}.*--study NAME"
    with pytest.raises(ConfigError, match=message):
        open_study(make_sweep(tmp_path, storage=address, **changed), storage)


def test_a_study_that_no_sweep_made_is_refused_and_not_adopted(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, storage=f"sqlite:///{tmp_path}/sweeps.db")
    storage = open_storage(sweep)
    foreign = optuna.create_study(study_name="tiny", storage=storage, direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match=r"study 'tiny' in .* was not made by `lightrail sweep`"):
        open_study(sweep, storage)
    assert foreign.user_attrs == {}


def test_a_storage_without_tables_is_opened_by_several_at_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, storage=f"sqlite:///{tmp_path}/new.db")
    with ThreadPoolExecutor(4) as executor:
        assert len(list(executor.map(open_storage, [sweep] * 4))) == 4


@pytest.mark.parametrize(
    "address", ["postgresql+psycopg2://me:secret@127.0.0.1:1/x", "nonsense://x", "sqlite:////n/a.db"]
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"storage: .* cannot be opened") as refused:
        open_storage(make_sweep(tmp_path, storage=address))
    assert "secret" not in str(refused.value)
