"""Points to begin with, and results of earlier trainings that a study learns from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.tracking.store import open_store
from lightrail.sweeps.search.definition import Sweep, load
from lightrail.sweeps.search.study import finished, open_storage, open_study
from lightrail.sweeps.search.warm_start import enqueue, enqueued_points, params_of, warm_start
from tests.support.running import Fitted, fit_pinyin
from tests.support.tasks.pinyin import TINY, write_sentences

SPACE: dict[str, Any] = {
    "model.optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "data.batch.size": {"choices": [2, 4]},
    "network": {
        "branches": {
            "lstm": {"model.encoder": "LstmConfig", "model.encoder.width": {"low": 8, "high": 32, "step": 8}},
            "transformer": {"model.encoder": "TransformerConfig", "model.encoder.depth": {"low": 1, "high": 2}},
        }
    },
    "model.encoder.ngram_orders": {"choices": [[2], [2, 3]]},
}
POINT = {
    "model.optim.lr": 2e-3,
    "data.batch.size": 4,
    "network": "transformer",
    "network.transformer.model.encoder.depth": 1,
    "model.encoder.ngram_orders": "[2]",
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A finished run, of the settings that `POINT` names."""
    folder = tmp_path_factory.mktemp("fitted")
    store = f"sqlite:///{folder}/mlflow.db"
    open_store(store, create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return fit_pinyin(folder / "pinyin", store)


def sweep_in(folder: Path, name: str = "tiny", store: str = "sqlite:///mlflow.db", **more: Any) -> Sweep:
    base = folder / "base.yaml"
    base.write_text(parse([*TINY, *write_sentences(folder), f"--tracking.uri={store}"]).dump(), encoding="utf-8")
    settings = {
        "base": "base.yaml",
        "metric": "val/character_accuracy",
        "direction": "maximize",
        "n_trials": 3,
        "storage": f"sqlite:///{folder}/sweeps.db",
        "space": SPACE,
        **more,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return load(["--config", str(file)])


def studied(sweep: Sweep) -> optuna.Study:
    """The study after `enqueue` and `warm_start`, each done twice as by a sweep that was killed and begun again."""
    storage = open_storage(sweep)
    study = open_study(sweep, storage)
    for _ in range(2):
        enqueue(study, sweep)
        warm_start(study, storage, sweep)
    return study


def run_trial(study: optuna.Study, sweep: Sweep, value: float) -> Mapping[str, Any]:
    def objective(trial: optuna.Trial) -> float:
        sweep.space.suggest(trial)
        return value

    study.optimize(objective, n_trials=1)
    return study.get_trials(states=[TrialState.COMPLETE])[-1].params


def test_points_are_tried_first_in_their_order_and_once(tmp_path: Path) -> None:
    first = {"network": "lstm", "model.encoder.ngram_orders": [2, 3]}
    sweep = sweep_in(tmp_path, enqueue=[first, {"model.optim.lr": 0.01, "data.batch.size": 2}])
    study = studied(sweep)
    one, other = run_trial(study, sweep, 0.1), run_trial(study, sweep, 0.2)
    assert (one["network"], one["model.encoder.ngram_orders"]) == ("lstm", "[2, 3]")
    assert (other["model.optim.lr"], other["data.batch.size"]) == (0.01, 2)
    assert study.get_trials(states=[TrialState.WAITING]) == []
    assert len(finished(study)) == 2


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"model.optim.lr": 1.0}, r"enqueue.0.model.optim.lr: expected a number from 0.0001 to 0.1, found 1.0"),
        ({"model.optim.lr": True}, "expected a number from"),
        ({"data.batch.size": 3}, r"data.batch.size: expected one of \[2, 4\], found 3"),
        ({"data.batch.size": "4"}, r"expected one of \[2, 4\], found '4'"),
        ({"network": "gru"}, r"network: expected one of \['lstm', 'transformer'\], found 'gru'"),
        ({"network.lstm.model.encoder.width": 12}, r"expected 8 and a number of steps of 8, found 12"),
    ],
)
def test_a_point_outside_of_the_space_is_refused(tmp_path: Path, point: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        enqueued_points(sweep_in(tmp_path, enqueue=[point]))


def test_the_point_of_a_configuration_is_found_again(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        trial = study.ask()
        configuration = sweep.configuration(sweep.space.suggest(trial))
        assert params_of(sweep, configuration.values) == trial.params
        study.tell(trial, 0.0)
    assert {trial.params["network"] for trial in study.trials} == {"lstm", "transformer"}


def test_an_earlier_study_is_learned_from_and_does_not_count(tmp_path: Path) -> None:
    before = sweep_in(tmp_path, "before")
    study = studied(before)
    params = [run_trial(study, before, value) for value in (0.1, 0.9)]

    sweep = sweep_in(tmp_path, warm_start=["before"])
    warm = studied(sweep)
    assert [(trial.params, trial.value, trial.state) for trial in warm.trials] == [
        (own, value, TrialState.COMPLETE) for own, value in zip(params, (0.1, 0.9), strict=True)
    ]
    assert finished(warm) == []
    run_trial(warm, sweep, 0.3)
    assert [trial.number for trial in finished(warm)] == [2]


def test_of_an_earlier_study_only_points_of_the_space_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = sweep_in(tmp_path, "before", enqueue=[{"network": "lstm"}, {"network": "transformer"}])
    study = studied(before)
    for value in (0.1, 0.9):
        run_trial(study, before, value)
    only_lstm = {**SPACE, "network": {"branches": {"lstm": SPACE["network"]["branches"]["lstm"]}}}
    with caplog.at_level("INFO"):
        warm = studied(sweep_in(tmp_path, warm_start=["before"], space=only_lstm))
    assert [trial.params["network"] for trial in warm.trials] == ["lstm"]
    assert "warm start from before: 1 trainings; omitted 1 outside of the space" in caplog.messages


def test_a_study_with_another_goal_is_refused(tmp_path: Path) -> None:
    studied(sweep_in(tmp_path, "before", metric="val/loss", direction="minimize"))
    with pytest.raises(ConfigError, match=r"the study before has metric val/loss, and this sweep \['val/character_acc"):
        studied(sweep_in(tmp_path, warm_start=["before"]))
    with pytest.raises(ConfigError, match="this study itself"):
        studied(sweep_in(tmp_path, "itself", warm_start=["itself"]))


def test_a_finished_run_is_learned_from(tmp_path: Path, fitted: Fitted) -> None:
    sweep = sweep_in(tmp_path, store=fitted.store, warm_start=[fitted.run_id[:20]])
    sweep = _on_the_data_of(fitted, sweep)
    (trial,) = studied(sweep).trials
    assert trial.params.keys() == POINT.keys()
    lr = float(fitted.params["model.init_args.optim.lr"])
    assert trial.params == {**POINT, "model.optim.lr": lr}
    best = max(value for _, value in fitted.history("val/character_accuracy"))
    assert trial.value == best
    assert finished(studied(sweep)) == []


def test_a_run_of_other_data_or_none_is_refused(tmp_path: Path, fitted: Fitted) -> None:
    with pytest.raises(ConfigError, match=r"as a run: .* has data.path=.*and this sweep .*Name runs of the same task"):
        studied(sweep_in(tmp_path, store=fitted.store, warm_start=[fitted.run_id]))
    with pytest.raises(ConfigError, match=r"nothing is no study of sqlite:///.*; as a run: no run 'nothing'"):
        studied(sweep_in(tmp_path, "other", store=fitted.store, warm_start=["nothing"]))


def test_a_run_outside_of_the_space_is_left_out(tmp_path: Path, fitted: Fitted) -> None:
    space = {**SPACE, "data.batch.size": {"choices": [1, 2]}}
    sweep = sweep_in(tmp_path, store=fitted.store, warm_start=[fitted.run_id], space=space)
    assert studied(_on_the_data_of(fitted, sweep)).trials == []


def _on_the_data_of(fitted: Fitted, sweep: Sweep) -> Sweep:
    return replace(sweep, base=[*sweep.base, f"--data.path={fitted.folder}/train.tsv"])
