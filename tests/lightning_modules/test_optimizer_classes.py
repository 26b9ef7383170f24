"""Every optimizer and schedule of the installed torch, by class path: trains and resumes exactly, or is refused."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.optimization import (
    OptimConfig,
    OptimizerClass,
    Schedule,
    ScheduleClass,
    build_optimizer,
    build_schedule,
)
from lightrail.lightning_modules.optimization.classes import JoinedOptimizer
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.project.running.resuming import changed_settings, refuse_fixed
from lightrail.testing.resuming import BY_BATCHES, EVERY_STEP, check_every_state
from tests.support.tasks import text_classification


def classes(module: Any, base: type) -> dict[str, str]:
    """Public classes of a module by name, with their import paths."""
    found = {name: own for name, own in vars(module).items() if isinstance(own, type) and issubclass(own, base)}
    return {
        name: f"{own.__module__}.{own.__qualname__}"
        for name, own in sorted(found.items())
        if own is not base and name[0] != "_"
    }


OPTIMIZERS = classes(torch.optim, Optimizer)
SCHEDULES = classes(lr_scheduler, lr_scheduler.LRScheduler)
REFUSED = {
    "LBFGS": "LBFGS cannot be used here: it computes the loss several times per step, .* Choose adamw",
    "SparseAdam": "SparseAdam cannot be used here: it takes sparse gradients alone, .* Choose torch.optim.Adam",
    "ChainedScheduler": "it takes other schedules. Choose one of them",
    "SequentialLR": "it takes other schedules. Choose one of them",
    "LambdaLR": "it takes a function, which a configuration cannot name. Choose another",
    "MultiplicativeLR": "it takes a function, which a configuration cannot name. Choose another",
}
REQUIRED: dict[str, dict[str, Any]] = {
    "CosineAnnealingLR": {"T_max": 5},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.02, "step_size_up": 2},
    "ExponentialLR": {"gamma": 0.8},
    "MultiStepLR": {"milestones": [2, 4]},
    "OneCycleLR": {"max_lr": 0.02, "total_steps": None},
    "StepLR": {"step_size": 2},
    "ReduceLROnPlateau": {"patience": 0, "cooldown": 1, "min_lr": 0.0004},
}
METRICS = [0.1, 0.5, 0.4, 0.4, 0.6, 0.6, 0.6, 0.2, 0.7, 0.1]


class Training:
    """A tiny network with an embedding, a hidden matrix, a norm and a head, trained on random targets."""

    def __init__(self, config: OptimConfig, num_steps: int = 10) -> None:
        torch.manual_seed(0)
        parts = {"tokens": nn.Embedding(5, 4), "hidden": nn.Linear(4, 3), "norm": nn.LayerNorm(3)}
        self.module = nn.ModuleDict({**parts, "head": nn.Linear(3, 2)})
        self.optimizer = build_optimizer(self.module, config)
        self.schedule: Schedule = build_schedule(self.optimizer, config, num_steps)
        self.rates: list[list[float]] = []

    def run(self, steps: range) -> "Training":
        for step in steps:
            self.rates.append([group["lr"] for group in self.optimizer.param_groups])
            states: Any = self.module["tokens"](torch.tensor([step % 5, 3]))
            for name in ("hidden", "norm", "head"):
                states = self.module[name](states)
            self.optimizer.zero_grad()
            states.square().mean().backward()
            self.optimizer.step()
            self.schedule.step()
            self.schedule.validated(METRICS[step])
        return self

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, read back as a resumed run reads it."""
        parts = {name: getattr(self, name).state_dict() for name in ("module", "optimizer", "schedule")}
        torch.save(parts, stream := io.BytesIO())
        stream.seek(0)
        read: dict[str, Any] = torch.load(stream, weights_only=True)
        return read

    def load(self, state: Mapping[str, Any]) -> "Training":
        for name, own in state.items():
            getattr(self, name).load_state_dict(own)
        return self


def check_resume(config: OptimConfig, num_steps: int = 10) -> Training:
    whole = Training(config).run(range(num_steps))
    start = Training(config)
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    first = start.run(range(4))
    assert any(not torch.equal(value, before[name]) for name, value in first.module.state_dict().items())
    resumed = Training(config).load(first.state()).run(range(4, num_steps))
    assert resumed.rates == whole.rates[4:]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    return whole


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_trains_and_resumes_exactly_or_is_refused(name: str) -> None:
    config = OptimConfig(optimizer=OptimizerClass(path=OPTIMIZERS[name]), lr=0.01, schedule="cosine")
    if name in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            Training(config)
        return
    whole = check_resume(config)
    decayed = {group["weight_decay"] for group in whole.optimizer.param_groups}
    assert decayed == {0.01, 0.0}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_torch_gives_its_own_rates_and_resumes_exactly_or_is_refused(name: str) -> None:
    schedule = ScheduleClass(path=SCHEDULES[name], arguments=REQUIRED.get(name, {}))
    config = OptimConfig(optimizer="sgd", schedule=schedule, lr=0.01, warmup_fraction=0)
    if name in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            Training(config)
        return
    found = [rates[0] for rates in check_resume(config).rates]
    steps = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    given: dict[str, Any] = {**REQUIRED.get(name, {})}
    given |= {"total_steps": 10, "cycle_momentum": False} if name == "OneCycleLR" else {}
    given |= {"cycle_momentum": False} if name == "CyclicLR" else {}
    is_plateau = name == "ReduceLROnPlateau"
    reference: Any = getattr(lr_scheduler, name)(steps, **given, **({"mode": "max"} if is_plateau else {}))
    expected = []
    for metric in METRICS:
        expected.append(steps.param_groups[0]["lr"])
        steps.step()
        reference.step(*([metric] if is_plateau else []))
    assert found == pytest.approx(expected)
    assert len(set(found)) > 1


def test_a_schedule_by_class_begins_when_warm_up_ends_and_ends_before_its_last_step() -> None:
    one_cycle = ScheduleClass(path=SCHEDULES["OneCycleLR"], arguments={"max_lr": 0.01, "total_steps": 4})
    config = OptimConfig(optimizer="sgd", schedule=one_cycle, lr=0.01, warmup_fraction=0.2)
    rates = [rates[0] for rates in Training(config).run(range(10)).rates]
    assert rates[:3] == pytest.approx([0.0, 0.0002, 0.0004])  # OneCycleLR begins at a 25th of its peak
    assert max(rates) > 0.008
    assert rates[5:] == [rates[5]] * 5


def test_layers_below_learn_slower_under_a_schedule_by_class() -> None:
    path = SCHEDULES["ExponentialLR"]
    config = OptimConfig(schedule=ScheduleClass(path=path, arguments={"gamma": 0.5}), warmup_fraction=0, lr=1.0)
    module = nn.Linear(1, 1)
    groups: list[dict[str, Any]] = [{"params": [module.weight], "lr": 0.3}, {"params": [module.bias]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = build_schedule(optimizer, config, math.inf)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.15, 0.5]


def test_muon_updates_hidden_matrices_and_adamw_all_else() -> None:
    config = OptimConfig(optimizer=OptimizerClass(path=OPTIMIZERS["Muon"]), lr=0.01, beta2=0.9)
    training = Training(config)
    names = {id(own): name for name, own in training.module.named_parameters()}
    of_muon = [group for group in training.optimizer.param_groups if "ns_steps" in group]
    rest = [group for group in training.optimizer.param_groups if "betas" in group]
    assert [names[id(own)] for group in of_muon for own in group["params"]] == ["hidden.weight"]
    assert {names[id(own)] for group in rest for own in group["params"]} == set(names.values()) - {"hidden.weight"}
    assert {group["betas"] for group in rest} == {(0.9, 0.9)}
    assert [group["adjust_lr_fn"] for group in of_muon] == ["match_rms_adamw"]
    with pytest.raises(ConfigError, match="Muon updates matrices of hidden layers, and none is trained"):
        build_optimizer(nn.Embedding(3, 2), config)


def test_settings_of_an_optimizer_by_class_are_restored_from_plain_values() -> None:
    config = OptimConfig(
        optimizer=OptimizerClass(path=OPTIMIZERS["NAdam"], arguments={"betas": [0.8, 0.9]}),
        schedule=ScheduleClass(path=SCHEDULES["StepLR"], arguments={"step_size": 2}),
    )
    assert from_plain(to_plain(config)) == config
    hostile = OptimConfig(optimizer=OptimizerClass(path="os.system"))
    with pytest.raises(ConfigError, match="there is no imported Optimizer"):
        build_optimizer(nn.Linear(1, 1), hostile)


def arguments(folder: Path, *optim: str) -> list[str]:
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.precision=32-true"]
    batches = ["--data.batch.max_tokens=null", "--data.batch.size=4", *EVERY_STEP, *BY_BATCHES]
    return [*text_classification.settings(folder), *quiet, *batches, *(f"--model.optim.{own}" for own in optim)]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_whole_run_resumes_exactly(tmp_path: Path) -> None:
    settings = arguments(
        *(tmp_path, "optimizer=Muon", "optimizer.momentum=0.9", "lr=0.01", "schedule=OneCycleLR"),
        *("schedule.max_lr=0.02", "warmup_fraction=0"),
    )
    configuration = parse(settings)
    assert check_every_state(lambda: build(configuration, "fit"), tmp_path, only=[4]) == 9
    assert parse(["--config", str(written(tmp_path, configuration.dump()))]).values == configuration.values


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_with_three_optimizers_resumes_exactly(tmp_path: Path) -> None:
    """Muon of matrices, AdamW of the rest, and Adagrad of the rows of tables."""
    settings = [*arguments(tmp_path, "optimizer=Muon", "lr=0.01"), "--model.encoder.sparse_ngrams=true"]
    configuration = parse([*settings, "--model.encoder.ngram_orders=[2]", "--model.encoder.ngram_buckets=64"])
    model = build(configuration, "fit").model
    optimizer = build_optimizer(model, model.optim)
    assert isinstance(optimizer, JoinedOptimizer)
    assert [type(part).__name__ for part in optimizer.parts] == ["Adagrad", "Muon", "AdamW"]
    assert check_every_state(lambda: build(configuration, "fit"), tmp_path, only=[4]) == 9


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (["optimizer=Adamm"], r"there is no class 'Adamm'\. Did you mean Adam"),
        (["optimizer=torch.nn.Linear"], r"torch\.nn\.Linear is not a Optimizer"),
        (["optimizer=torch.optim.LBFGS"], REFUSED["LBFGS"]),
        (["optimizer=NAdam", "optimizer.lr=0.1"], r"optimizer\.init_args\.lr cannot be set: model\.optim\.lr is"),
        (["optimizer=NAdam", "optimizer.momentum=0.1"], r"optimizer\.init_args\.momentum: no such setting"),
        (["optimizer=NAdam", "optimizer.betas=[0.9, 2.0]"], r"NAdam refuses its settings: Invalid beta parameter"),
        (["schedule=LambdaLR"], REFUSED["LambdaLR"]),
        (["schedule=CosineAnnealingLR"], r"schedule\.init_args\.T_max is required"),
        (["schedule=CyclicLR", "schedule.base_lr=0.1", "schedule.max_lr=-1", "schedule.step_size_up=0"], "CyclicLR re"),
        (["schedule=ReduceLROnPlateau", "schedule.mode=min"], r"mode cannot be set: the metric decides"),
    ],
)
def test_what_cannot_train_is_refused_in_one_line(tmp_path: Path, optim: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(parse(arguments(tmp_path, *optim)), "fit")


def test_a_schedule_that_follows_the_metric_needs_validations(tmp_path: Path) -> None:
    settings = arguments(tmp_path, "schedule=ReduceLROnPlateau")
    assert build(parse(settings), "fit").model.optim.follows_metric
    with pytest.raises(ConfigError, match="schedule=ReduceLROnPlateau lowers the learning rate by what validations"):
        build(parse([*settings, "--trainer.limit_val_batches=0"]), "fit")
    endless = OptimConfig(schedule=ScheduleClass(path=SCHEDULES["OneCycleLR"], arguments={"total_steps": None}))
    with pytest.raises(ConfigError, match="needs the number of steps"):
        endless.check_end(math.inf)


def test_a_resumed_run_keeps_its_optimizer(tmp_path: Path) -> None:
    plain, nadam, other, slower = (
        parse(arguments(tmp_path, *own)).values
        for own in ([], ["optimizer=NAdam"], ["optimizer=RAdam"], ["optimizer=NAdam", "optimizer.momentum_decay=0.1"])
    )
    for before, now in ((plain, nadam), (nadam, plain), (nadam, other), (nadam, slower)):
        with pytest.raises(ConfigError, match="a resumed run cannot change it"):
            refuse_fixed(changed_settings(before, now))
    refuse_fixed(changed_settings(nadam, nadam))
