"""What becomes of trials: trained, pruned, failed, out of memory; and refused before there is one."""

import re

import pytest
from optuna.trial import TrialState

from lightrail.sweeps.search.study import FAILURE, HALVED, RUNS
from tests.support.callbacks import ALLOW
from tests.support.running import lightrail, runs_in
from tests.support.sweeping import LR, TinySweep

LAST_STEP = 12


def test_trials_are_runs_under_that_of_their_study(tiny_sweep: TinySweep, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_sweep.write()
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    parent = tiny_sweep.parent
    assert outcome.last_line.startswith(f"sweep {parent.run_id} finished: ")
    assert parent.status == "FINISHED"
    assert parent.tags["lightrail.study"] == "tiny"
    assert tiny_sweep.numbers(TrialState.COMPLETE) == [0, 1, 2, 3]
    assert len(tiny_sweep.children) == 4
    for run in tiny_sweep.children:
        trial = tiny_sweep.trials[int(run.tags["lightrail.trial"])]
        assert run.status == "FINISHED"
        assert run.tags["lightrail.parent_study"] == "tiny"
        assert trial.user_attrs[RUNS] == {"0": run.run_id}
        assert float(run.params["model.init_args.optim.lr"]) == trial.params["model.optim.lr"]
        history = dict(run.history("val/character_accuracy"))
        assert trial.intermediate_values == pytest.approx(history)
        assert trial.value == pytest.approx(max(history.values())), "of the best checkpoint, which is tested and kept"
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(parent.directory / "environment")
        definition = f"--config={parent.directory / 'sweep.yaml'}"
        assert lightrail("sweep", definition, ALLOW).last_line == outcome.last_line, "begun again, it is done"
    assert len(tiny_sweep.trials) == 4
    assert tiny_sweep.run("--n_trials=5").status == 0
    assert tiny_sweep.numbers(TrialState.COMPLETE) == [0, 1, 2, 3, 4]
    assert tiny_sweep.parent.status == "FINISHED"


def test_a_trial_may_have_loader_workers(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write("--data.batch.num_workers=1", n_trials=1)
    outcome = tiny_sweep.run()
    assert (outcome.status, tiny_sweep.numbers(TrialState.COMPLETE)) == (0, [0]), outcome.err


def test_what_goes_wrong_is_that_trials_own_and_says_why(tiny_sweep: TinySweep) -> None:
    hows = ["crash", "nan", "memory", "memory of a GPU", "small memory", "well"]
    points = [{"trainer.callbacks.how": how} for how in hows]
    space = {"trainer.callbacks.how": {"choices": hows}}
    tiny_sweep.write("--data.batch.size=4", space=space, enqueue=points, n_trials=6)
    outcome = tiny_sweep.run()
    assert outcome.status == 0, outcome.err
    trials = {trial.params["trainer.callbacks.how"]: trial for trial in tiny_sweep.trials}
    states = {how: trial.state.name for how, trial in trials.items()}
    assert states == {**dict.fromkeys(hows[:4], "FAIL"), "small memory": "COMPLETE", "well": "COMPLETE"}
    failures = {how: trials[how].user_attrs[FAILURE] for how in hows[:4]}
    assert failures["crash"]["reason"] == "RuntimeError: as asked"
    assert 'raise RuntimeError("as asked")' in failures["crash"]["log"]
    assert failures["nan"]["reason"] in ("train/loss is nan at step 3", "val/loss is nan at step 3")
    assert "not enough memory" in failures["memory"]["reason"]
    assert failures["memory of a GPU"]["reason"].startswith("OutOfMemoryError: CUDA out of memory")
    assert [how for how in hows if trials[how].user_attrs.get(HALVED)] == [
        "memory",
        "memory of a GPU",
        "small memory",
    ]
    by_trial: dict[int, list[tuple[str, str, str]]] = {}
    for run in tiny_sweep.children:
        settings = run.params["data.init_args.batch.size"], run.params["trainer.accumulate_grad_batches"]
        by_trial.setdefault(int(run.tags["lightrail.trial"]), []).append((run.status, *settings))
    whole, halved = ("FAILED", "4", "1"), ("2", "2")
    assert by_trial[trials["memory"].number] == [whole, ("FAILED", *halved)]
    assert by_trial[trials["small memory"].number] == [whole, ("FINISHED", *halved)]
    errors = [run.tags.get("lightrail.error", "") for run in tiny_sweep.children if run.status == "FAILED"]
    assert "RuntimeError: as asked" in errors


def test_a_trial_that_is_worse_than_the_others_is_given_up(tiny_sweep: TinySweep) -> None:
    tiny_sweep.write(
        "--model.optim.warmup_fraction=0",
        space={"model.optim.lr": {"low": 1e-9, "high": 0.1}},
        enqueue=[{"model.optim.lr": 0.03}, {"model.optim.lr": 1e-9}],
        n_trials=2,
        metric="val/loss",
        direction="minimize",
        pruner={"class_path": "MedianPruner", "init_args": {"n_startup_trials": 1, "n_warmup_steps": 4}},
        resources={"workers": 1, "threads": 1},
    )
    assert tiny_sweep.run().status == 0
    best, worse = tiny_sweep.trials
    assert best.state == TrialState.COMPLETE
    assert (worse.state, list(worse.intermediate_values)) == (TrialState.PRUNED, [3, 6])
    run = tiny_sweep.children[1]
    assert run.status == "KILLED"
    assert (run.tags["lightrail.trial_state"], run.tags["lightrail.pruned_step"]) == ("PRUNED", "6")
    assert "lightrail.error" not in run.tags
    assert [step for step, _ in run.history("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_trial_that_is_trained_to_its_end_is_complete(tiny_sweep: TinySweep) -> None:
    always = {"class_path": "ThresholdPruner", "init_args": {"upper": -1.0, "n_warmup_steps": LAST_STEP - 1}}
    tiny_sweep.write(n_trials=1, metric="val/loss", direction="minimize", pruner=always)
    assert tiny_sweep.run().status == 0
    (trial,) = tiny_sweep.trials
    assert (trial.state, max(trial.intermediate_values)) == (TrialState.COMPLETE, LAST_STEP)
    assert tiny_sweep.children[0].status == "FINISHED"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {"model.optim.lrr": LR}}, r"optim\.lrr: no such setting\. Did you mean .*\.optim\.lr\?"),
        (
            {"space": {"model.encoder.num_heads": {"choices": [2, 3]}}},
            r"space: .*num_heads.*Found with model\.encoder\.num_heads=3|with model\.encoder\.num_heads=3 cannot be",
        ),
        (
            {"space": {"model.encoder.width": {"choices": ["wide"]}}},
            r"""width: expected a whole number of at least 1, found "wide"\. Found with model\.encoder\.width='wide'""",
        ),
        ({"metric": "val/accurracy"}, r"metric: PinyinTagger does not log val/accurracy\. Did you mean val/"),
        ({"metric": "test/loss"}, r"metric: 'test/loss': only validation metrics can be optimized"),
        ({"sampler": "TPESamler"}, r"sampler.*Did you mean TPESampler\?"),
        ({"pruner": {"class_path": "MedianPruner", "init_args": {"n_warmup": 1}}}, r"pruner\.n_warmup: MedianPruner"),
        ({"n_trials": 0}, r"n_trials: expected a whole number of at least 1, found 0"),
        ({"n_trails": 3}, r"n_trails: no such setting\. Did you mean n_trials\?"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, r"storage: sqlite:////nowhere/at/all\.db cannot be opened"),
    ],
)
def test_a_sweep_that_cannot_succeed_is_refused_before_anything_exists(
    tiny_sweep: TinySweep, values: dict[str, object], message: str
) -> None:
    tiny_sweep.write(**values)
    outcome = tiny_sweep.run()
    assert outcome.status == 2
    assert outcome.out == ""
    assert re.search(message, outcome.err), outcome.err
    assert runs_in(tiny_sweep.store) == []
