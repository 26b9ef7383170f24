"""Settings of the optimizer with a state of their own, or of the update: exact after a resume, equal when divided."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightrail.lightning_modules.optimization import layer_numbers
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.project.running.resuming import changed_settings, refuse_fixed
from lightrail.testing.contract import processes
from lightrail.testing.resuming import BY_BATCHES, EVERY_STEP, Trained, check_every_state, train
from tests.support.tasks import text_classification

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
SETTINGS = {
    "plateau": ["schedule=plateau", "plateau_patience=0", "warmup_fraction=0.2", "lr=0.001"],
    "unfreezing": ["unfreeze_fraction=0.3", "lr=0.01"],
    "l1": ["l1=0.5", "lr=0.01"],
    "layer decay": ["layer_decay=0.5", "lr=0.01"],
}
OFTEN = [*BY_BATCHES, "--trainer.val_check_interval=1"]


def arguments(folder: Path, name: str, *more: str) -> list[str]:
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.precision=32-true"]
    own = [f"--model.optim.{setting}" for setting in SETTINGS[name]]
    batches = ["--data.batch.max_tokens=null", "--data.batch.size=4"]
    return [*text_classification.settings(folder), *quiet, *EVERY_STEP, *OFTEN, *batches, *own, *more]


def trained(folder: Path, name: str, *more: str) -> Trained:
    folder.mkdir(exist_ok=True)
    return train(build(parse(arguments(folder, name, *more)), "fit"), folder / "run")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_state_of_a_run_leads_to_the_same_bits(tmp_path: Path, name: str) -> None:
    settings = arguments(tmp_path, name)
    assert check_every_state(lambda: build(parse(settings), "fit"), tmp_path) == 9


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "divided",
    [["--data.batch.size=2", "--trainer.accumulate_grad_batches=4"], processes(2)],
    ids=["accumulation", "processes"],
)
def test_weights_are_the_same_however_a_batch_is_divided(tmp_path: Path, name: str, divided: list[str]) -> None:
    epochs = ["--trainer.max_epochs=6", "--trainer.max_steps=-1", "--trainer.val_check_interval=1.0"]
    plain = [*epochs, "--trainer.check_val_every_n_epoch=1", "--model.optim.optimizer=sgd", "--data.batch.size=8"]
    states = []
    for place, more in (("whole", []), ("divided", divided)):
        trained(tmp_path / place, name, *plain, *text_classification.WITHOUT_DROPOUT, *more)
        states.append(torch.load(tmp_path / place / "run" / "last.ckpt", weights_only=True))
    whole, parts = states
    assert whole["global_step"] == parts["global_step"] == 6
    assert rates_of(whole) == rates_of(parts)
    for key, expected in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][key], expected, rtol=1e-4, atol=1e-6, msg=key)


def rates_of(state: dict[str, Any]) -> list[float]:
    return [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]


def test_a_plateau_halves_the_rate_when_validations_get_no_better(tmp_path: Path) -> None:
    run = trained(tmp_path, "plateau")
    rates, accuracy = run.curves.of("train/learning_rate"), run.curves.of("val/accuracy")
    best, rate, expected = -1.0, 0.001, {}
    for step in range(1, 10):
        expected[step] = rate * min(1.0, (step - 1) / 2)  # a fifth of 9 steps, rounded up, to warm up
        rate *= 1.0 if accuracy[step] > best else 0.5
        best = max(best, accuracy[step])
    assert rates == pytest.approx(expected)
    assert rate < 0.0005, "a rate that never falls would prove little"


def test_while_a_metric_falls_that_is_to_fall_the_rate_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = type(build(parse(arguments(tmp_path, "plateau")), "fit").model)
    monkeypatch.setattr(task, "monitor", "val/loss")
    rates = {}
    for mode in ("min", "max"):
        monkeypatch.setattr(task, "monitor_mode", mode)
        run = trained(tmp_path / mode, "plateau", "--model.optim.lr=0.002", *text_classification.WITHOUT_DROPOUT)
        losses = list(run.curves.of("val/loss").values())
        assert losses[1:7] == sorted(losses[1:7], reverse=True)
        rates[mode] = run.curves.of("train/learning_rate")[7]
    assert rates == pytest.approx({"min": 0.002, "max": 0.002 / 2**5})


def test_layers_are_trained_one_after_the_other(tmp_path: Path) -> None:
    """Of 9 steps the head is trained from the first, the block from the fourth and the embeddings from the seventh."""
    settings = arguments(tmp_path, "unfreezing", "--model.optim.warmup_fraction=0")
    start = build(parse(settings), "fit").model
    layers, before = layer_numbers(start), {name: value.clone() for name, value in start.named_parameters()}
    train(build(parse(settings), "fit"), tmp_path / "whole", keep=tmp_path / "kept")
    unfrozen = []
    for state in sorted((tmp_path / "kept").iterdir()):
        weights = torch.load(state / "last.ckpt", weights_only=True)["state_dict"]
        unfrozen.append({layers[name] for name, value in before.items() if not torch.equal(weights[name], value)})
    assert unfrozen == [*[{2}] * 3, *[{1, 2}] * 3, *[{0, 1, 2}] * 3]


def test_l1_leaves_zeros_in_the_weights(tmp_path: Path) -> None:
    zeros = {}
    for l1 in (0.0, 0.5):
        run = trained(tmp_path / f"{l1}", "l1", f"--model.optim.l1={l1}", "--trainer.max_steps=40")
        matrices = [value for name, value in run.weights.items() if value.ndim == 2 and "embedding.tokens" not in name]
        zeros[l1] = sum(int((value == 0).sum()) for value in matrices) / sum(value.numel() for value in matrices)
    assert zeros[0.0] < 0.01
    assert zeros[0.5] > 0.1


@pytest.mark.parametrize(("name", "value"), [("layer_decay", 0.5), ("unfreeze_fraction", 0.3)])
def test_a_run_that_goes_on_keeps_its_layers_apart_or_together(name: str, value: float) -> None:
    def configuration(number: float) -> dict[str, Any]:
        return {"model": {"init_args": {"optim": {"lr": 0.1, name: number}}}}

    with pytest.raises(ConfigError, match=rf"optim\.{name} was 1\.0 and is {value}: a resumed run cannot change it"):
        refuse_fixed(changed_settings(configuration(1.0), configuration(value)))
    older = changed_settings({"model": {"init_args": {"optim": {"lr": 0.1}}}}, configuration(1.0))
    refuse_fixed(older)  # lightrail had no such setting then


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (
            "plateau",
            ["--trainer.limit_val_batches=0"],
            r"schedule=plateau lowers the learning rate by what",
        ),
        ("unfreezing", ["--model.optim.unfreeze_fraction=0.6"], r"the lowest of 3 layers"),
        ("layer decay", ["--model.optim.layer_decay=0"], r"layer_decay: expected a number above 0 and up to 1"),
    ],
)
def test_what_would_do_nothing_is_refused_before_a_run_begins(
    tmp_path: Path, name: str, more: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(parse(arguments(tmp_path, name, *more)), "fit")
