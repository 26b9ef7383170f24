"""Schedules equal those of transformers; what decays, what is frozen and what is clipped is what was asked for."""

import math
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_modules.optimization import (
    OptimConfig,
    ScheduleName,
    build_optimizer,
    build_schedule,
    clip_gradients,
    freeze,
    schedule_factor,
)
from project.errors import ConfigError


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
        *[("warmup_fraction", 1.0), ("warmup_fraction", -0.1), ("final_fraction", 1.1)],
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"model\.optim\.{setting} is {value}\. Give a number"):
        OptimConfig(**{setting: value}).check()


def test_a_schedule_that_falls_needs_an_end() -> None:
    for config in (OptimConfig(), OptimConfig(schedule="constant", warmup_fraction=0.1)):
        with pytest.raises(ConfigError, match=r"Set trainer\.max_steps or trainer\.max_epochs"):
            build_schedule(optimizer(), config, math.inf)
    endless = build_schedule(optimizer(), OptimConfig(schedule="constant", warmup_fraction=0), math.inf)
    assert endless.get_last_lr() == [1.0]


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
