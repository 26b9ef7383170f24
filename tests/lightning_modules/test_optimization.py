"""Schedules equal those of transformers and torch; what decays, is frozen or clipped is what was asked for."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightrail.lightning_modules.optimization import (
    OptimConfig,
    Schedule,
    ScheduleName,
    build_optimizer,
    build_schedule,
    clip_gradients,
    freeze,
    schedule_factor,
)
from lightrail.project.basics.errors import ConfigError


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"tokens": nn.Embedding(5, 4), "hidden": nn.Linear(4, 3), "norm": nn.LayerNorm(3), "head": nn.Linear(3, 2)}
    )


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def names_by_decay(module: nn.Module, config: OptimConfig) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = build_optimizer(module, config).param_groups
    return {group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


@settings(deadline=None)  # the first call imports transformers
@given(num_steps=st.integers(1, 200), warmup=st.integers(0, 50), final=st.sampled_from([0.0, 0.1, 0.7]))
def test_schedules_are_those_of_transformers(num_steps: int, warmup: int, final: float) -> None:
    warmup = min(warmup, num_steps - 1)
    references: list[tuple[ScheduleName, float, Any]] = [
        ("linear", 0.0, transformers.get_linear_schedule_with_warmup(optimizer(), warmup, num_steps)),
        ("constant", 0.0, transformers.get_constant_schedule_with_warmup(optimizer(), warmup)),
        (
            "cosine",
            final,
            transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer(), warmup, num_steps, min_lr_rate=final),
        ),
    ]
    for name, last, reference in references:
        for step in range(num_steps + 1):
            own = schedule_factor(step, num_steps=num_steps, warmup=warmup, name=name, final=last)
            assert own == pytest.approx(reference.lr_lambdas[0](step), abs=1e-9), (name, step)


def test_a_linear_schedule_ends_at_the_final_fraction_and_stays_there() -> None:
    factors = [schedule_factor(step, num_steps=4, warmup=0, name="linear", final=0.2) for step in range(7)]
    assert factors == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_the_optimizer_goes_through_the_schedule() -> None:
    steps, config = optimizer(), OptimConfig(lr=1.0, warmup_fraction=0.25, final_fraction=0.1)
    schedule = build_schedule(steps, config, num_steps=10)
    rates = []
    for _ in range(11):
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])  # a quarter of 10, rounded up: three steps
    assert rates[4:] == pytest.approx([1 - 0.9 * done / 7 for done in range(1, 8)])


def test_matrices_decay_and_norms_biases_and_embeddings_do_not() -> None:
    assert names_by_decay(network(), OptimConfig(weight_decay=0.1)) == {
        0.1: {"hidden.weight", "head.weight"},
        0.0: {"tokens.weight", "hidden.bias", "norm.weight", "norm.bias", "head.bias"},
    }


def test_without_gradients_only_matrices_shrink() -> None:
    module = network()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(module, OptimConfig(lr=0.5, weight_decay=0.1)).step()
    for name, parameter in module.named_parameters():
        shrunk = 0.95 if name in ("hidden.weight", "head.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_frozen_parameters_are_left_to_no_optimizer() -> None:
    module = network()
    freeze(module, ["tokens", r"hidden\.w", "head"])
    assert names_by_decay(module, OptimConfig()) == {0.0: {"hidden.bias", "norm.weight", "norm.bias"}}


def test_a_pattern_counts_from_the_start_of_a_name() -> None:
    module = network()
    freeze(module, ["h.*bias"])
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {"hidden.bias", "head.bias"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("weight", r"'weight' matches no parameter\. Names begin like \['tokens\.weight'"),
        ("(", r"'\(' is not a regular expression: missing \)"),
        ("", "leaves no parameter to train"),
    ],
)
def test_a_pattern_that_does_not_do_what_is_meant_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(network(), [pattern])


@pytest.mark.parametrize("is_fused", [True, False])
def test_adamw_and_sgd_have_the_settings_given(is_fused: bool) -> None:
    adamw = build_optimizer(network(), OptimConfig(lr=3e-4, beta2=0.95), is_fused=is_fused)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["betas"], adamw.defaults["fused"]) == (3e-4, (0.9, 0.95), is_fused)
    sgd = build_optimizer(network(), OptimConfig(optimizer="sgd", lr=0.1), is_fused=is_fused)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["fused"]) == (0.9, is_fused)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("lr", 0.0), ("lr", math.nan), ("weight_decay", -0.1), ("beta2", 1.0), ("beta2", 0.0)],
        *[("layer_decay", 0.0), ("layer_decay", 1.1), ("l1", -0.1), ("plateau_factor", 1.0), ("plateau_factor", 0.0)],
        *[("plateau_patience", -1), ("unfreeze_fraction", 1.0), ("unfreeze_fraction", -0.1)],
        *[("warmup_fraction", 1.0), ("warmup_fraction", -0.1), ("final_fraction", 1.1)],
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^OptimConfig\.{setting}: expected a (whole )?number .*, found "):
        OptimConfig(**{setting: value})


def test_a_schedule_that_falls_needs_an_end() -> None:
    for config in (OptimConfig(), OptimConfig(schedule="constant", warmup_fraction=0.1)):
        with pytest.raises(ConfigError, match=r"Set trainer\.max_steps or trainer\.max_epochs"):
            build_schedule(optimizer(), config, math.inf)
    for config in (OptimConfig(schedule=name, warmup_fraction=0) for name in get_args(ScheduleName)[2:]):
        assert build_schedule(optimizer(), config, math.inf).get_last_lr() == [1.0]
    gradual = OptimConfig(schedule="constant", warmup_fraction=0, unfreeze_fraction=0.1)
    with pytest.raises(ConfigError, match=r"unfreeze_fraction=0\.1 is a fraction of all steps"):
        build_schedule(optimizer(), gradual, math.inf)


def rates_on_plateaus(config: OptimConfig, metrics: Sequence[float], mode: Literal["min", "max"]) -> list[float]:
    steps = optimizer()
    schedule = build_schedule(steps, config, math.inf, mode)
    rates = []
    for metric in metrics:
        schedule.validated(metric)
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
        assert steps.param_groups[0]["lr"] == rates[-1], "only a validation lowers the rate"
    return rates


@settings(deadline=None)  # the first optimizer imports half of torch
@given(
    metrics=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, math.nan]), min_size=1, max_size=20),
    patience=st.integers(0, 3),
    factor=st.sampled_from([0.1, 0.5]),
    mode=st.sampled_from(["min", "max"]),
)
def test_a_plateau_lowers_the_rate_as_torch_does(
    metrics: list[float], patience: int, factor: float, mode: Literal["min", "max"]
) -> None:
    config = OptimConfig(schedule="plateau", warmup_fraction=0, plateau_factor=factor, plateau_patience=patience)
    steps = optimizer()
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        steps, mode, factor=factor, patience=patience, threshold=0.0, threshold_mode="abs"
    )
    expected = []
    for metric in metrics:
        reference.step(metric)
        expected.append(steps.param_groups[0]["lr"])
    assert rates_on_plateaus(config, metrics, mode) == pytest.approx(expected)


def test_a_plateau_falls_to_the_final_fraction_and_no_further() -> None:
    config = OptimConfig(schedule="plateau", warmup_fraction=0, final_fraction=0.3, plateau_patience=0)
    assert rates_on_plateaus(config, [0.5, 0.5, 0.5, 0.5, 0.9], "max") == [1.0, 0.5, 0.3, 0.3, 0.3]


def test_a_plateau_warms_up_first_and_a_rate_lowered_meanwhile_stays_lowered() -> None:
    steps, config = optimizer(), OptimConfig(schedule="plateau", warmup_fraction=0.5, plateau_patience=0)
    schedule = build_schedule(steps, config, num_steps=8)
    rates = []
    for step in range(8):
        if step in (1, 2):
            schedule.validated(0.5)
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
    assert rates == [0.0, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]


def test_a_plateau_goes_on_from_its_state_under_the_settings_now_in_force() -> None:
    def schedule(factor: float) -> Schedule:
        config = OptimConfig(schedule="plateau", warmup_fraction=0, plateau_factor=factor, plateau_patience=1)
        return build_schedule(optimizer(), config, math.inf)

    before, after = schedule(0.5), schedule(0.1)
    for metric in (0.5, 0.4, 0.4, 0.4):  # lowered once, and one validation that is forgiven
        before.validated(metric)
    state = before.state_dict()
    after.load_state_dict(state)
    assert state["plateau"] == {"share": 0.5, "best": 0.5, "num_bad_validations": 1}
    after.validated(0.5)
    assert after.get_last_lr() == pytest.approx([0.05])


@pytest.mark.parametrize(("before", "after", "rate"), [("constant", "plateau", 1.0), ("plateau", "constant", 1.0)])
def test_a_run_may_change_to_a_plateau_and_back(before: ScheduleName, after: ScheduleName, rate: float) -> None:
    first, second = (
        build_schedule(optimizer(), OptimConfig(schedule=name, warmup_fraction=0, plateau_patience=0), math.inf)
        for name in (before, after)
    )
    for _ in range(2):
        first.validated(0.5)
    second.load_state_dict(first.state_dict())
    second.set_rates()
    assert second.get_last_lr() == [rate]


def test_a_plateau_without_validations_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule=plateau .* trainer\.limit_val_batches is 0"):
        OptimConfig(schedule="plateau").check_validation(0)
    OptimConfig(schedule="plateau").check_validation(0.5)
    OptimConfig().check_validation(0)


def test_l1_brings_matrices_nearer_to_zero_and_what_would_cross_it_to_zero() -> None:
    module = network()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(module, OptimConfig(optimizer="sgd", lr=0.5, weight_decay=0, l1=0.5)).step()
    num_zeros = 0
    for name, parameter in module.named_parameters():
        expected = before[name]
        if name in ("hidden.weight", "head.weight"):
            expected = expected.sign() * (expected.abs() - 0.25).clamp(min=0)
            num_zeros += int((parameter == 0).sum())
        torch.testing.assert_close(parameter.detach(), expected)
    assert 0 < num_zeros < 18, "some weights become zero, and not all of them"


def test_l1_of_any_size_is_used() -> None:
    module = torch.nn.Linear(2, 2)
    module(torch.ones(1, 2)).sum().backward()
    build_optimizer(module, OptimConfig(lr=0.5, l1=1e308)).step()
    assert not module.weight.any()


def test_l1_leaves_alone_what_an_update_leaves_alone() -> None:
    module = network()
    hidden, head = (module.get_parameter(f"{name}.weight") for name in ("hidden", "head"))
    before = hidden.detach().clone()
    head.grad = torch.zeros_like(head)
    build_optimizer(module, OptimConfig(lr=0.5, l1=0.5)).step()
    assert torch.equal(hidden, before)


@pytest.mark.parametrize(("optimizer_name", "least"), [("adamw", 5), ("sgd", 6)])
def test_l1_finds_the_inputs_that_matter(optimizer_name: Literal["adamw", "sgd"], least: int) -> None:
    """Least squares with 3 of 10 inputs in use: with l1 weights of the other 7 are exactly zero, and no others are."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 10, generator=generator)
    targets = inputs[:, :3] @ torch.tensor([1.0, -2.0, 3.0]) + 0.1 * torch.randn(200, generator=generator)
    zeros = {}
    for l1 in (0.0, 0.5):
        torch.manual_seed(0)
        module = nn.Linear(10, 1)
        steps = build_optimizer(module, OptimConfig(optimizer=optimizer_name, lr=0.01, weight_decay=0, l1=l1))
        for _ in range(800):
            batch = torch.randint(200, (20,), generator=generator)
            steps.zero_grad()
            (module(inputs[batch]).squeeze(-1) - targets[batch]).square().mean().backward()
            steps.step()
        zeros[l1] = (module.weight[0] == 0).nonzero().flatten().tolist()
    assert zeros[0.0] == []
    assert len(zeros[0.5]) >= least
    assert set(zeros[0.5]) <= set(range(3, 10))


def with_gradients() -> nn.ModuleDict:
    module = network()
    module["hidden"](module["tokens"](torch.tensor([1, 2]))).sum().backward()
    assert module["head"].weight.grad is None
    return module


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def test_gradients_are_clipped_by_their_total_norm() -> None:
    whole, module = gradients(with_gradients()), with_gradients()
    clip_gradients(module, 0.5, "norm")
    torch.testing.assert_close(gradients(module), whole * 0.5 / whole.norm())
    clip_gradients(module, 0.6, None)
    torch.testing.assert_close(gradients(module), whole * 0.5 / whole.norm())  # already below


def test_gradients_are_clipped_by_value() -> None:
    whole, module = gradients(with_gradients()), with_gradients()
    clip_gradients(module, 0.3, "value")
    torch.testing.assert_close(gradients(module), whole.clamp(-0.3, 0.3))


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_gradients_stay(limit: float | None) -> None:
    module = with_gradients()
    clip_gradients(module, limit, "norm")
    assert torch.equal(gradients(module), gradients(with_gradients()))
