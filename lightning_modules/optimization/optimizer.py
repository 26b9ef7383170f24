"""The optimizer and its learning-rate schedule: groups of parameters, freezing, clipping, changed settings."""

import math
import re
from collections import defaultdict
from functools import partial
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightrail.lightning_modules.optimization.classes import JoinedOptimizer, OptimizerClass, ScheduleClass
from lightrail.lightning_modules.optimization.config import OptimConfig, ScheduleName
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.project.basics.errors import ConfigError


def schedule_factor(step: int, *, num_steps: int, warmup: int, name: ScheduleName, final: float = 0.0) -> float:
    """Return the learning rate of a step as a fraction of the peak, before any plateau lowers it.

    Args:
        step: optimizer steps done, from 0.
        num_steps: optimizer steps of the whole run.
        warmup: steps of linear warm-up.

    >>> [schedule_factor(step, num_steps=6, warmup=2, name="linear") for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return step / warmup
    if name in ("constant", "plateau"):
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    remaining = 1 - progress if name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * remaining


class _Shape:
    """The factor of the learning rate that a schedule of torch sets: its rate as a fraction of the peak."""

    def __init__(self, config: OptimConfig, num_steps: int, mode: Literal["min", "max"]) -> None:
        named = config.schedule if isinstance(config.schedule, ScheduleClass) else None
        self._peak = config.lr if named and not named.follows_metric else 1.0
        self._shadow = SGD([torch.zeros(1)], lr=self._peak, momentum=0.9)
        self.schedule: Any = (
            named.build(self._shadow, num_steps, mode, config.lr)
            if named
            else ReduceLROnPlateau(
                self._shadow,
                mode,
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                threshold=0.0,
                threshold_mode="abs",
                min_lr=config.final_fraction,
            )
        )

    @property
    def share(self) -> float:
        """The factor, which multiplies the learning rate."""
        return float(self._shadow.param_groups[0]["lr"]) / self._peak

    def _advance(self, *metric: float) -> None:
        self._shadow.step()  # which torch expects before each step of a schedule
        self.schedule.step(*metric)


@final
class Plateau(_Shape):
    """The factor that validations without a better metric lower; torch's ReduceLROnPlateau decides when.

    By the name `plateau` any improvement counts as one, as for the best checkpoint.
    """

    def validated(self, metric: float) -> None:
        """Count a validation, and lower the factor where it is time."""
        self._advance(metric)

    def state_dict(self) -> dict[str, float]:
        """Return what was seen, without the settings: another patience counts from the next validation on."""
        own = self.schedule
        cooldown = {"cooldown": own.cooldown_counter} if own.cooldown else {}
        seen = {"best": float(own.best), "num_bad_validations": own.num_bad_epochs}
        return {"share": self.share, **seen, **cooldown}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self._shadow.param_groups[0]["lr"] = state["share"]
        own = self.schedule
        own.best, own.num_bad_epochs = state["best"], int(state["num_bad_validations"])
        own.cooldown_counter = int(state.get("cooldown", 0))


@final
class StepShape(_Shape):
    """The factor that a schedule of torch sets by the number of steps since warm-up ended."""

    def __init__(self, config: OptimConfig, num_steps: int, mode: Literal["min", "max"]) -> None:
        self._restart = partial(super().__init__, config, num_steps, mode)
        self._restart()

    def advance_to(self, step: int) -> None:
        """Advance to a step since warm-up ended; a step before the current one is reached from the start again."""
        if step < self.schedule.last_epoch:
            self._restart()
        # OneCycleLR raises an exception after its last step; its last rate is kept.
        last = getattr(self.schedule, "total_steps", step + 1) - 1
        while self.schedule.last_epoch < min(step, last):
            self._advance()


class Schedule(LambdaLR):
    """The learning-rate schedule, advanced after each optimizer step and, for a plateau, by each validation's metric.

    Args:
        num_steps: optimizer steps of the whole run; 0 when nothing depends on it.
        mode: whether a better metric is a smaller or a larger one.
    """

    def __init__(self, optimizer: Optimizer, config: OptimConfig, num_steps: int, mode: Literal["min", "max"]) -> None:
        warmup = math.ceil(config.warmup_fraction * num_steps)
        of_class = isinstance(config.schedule, ScheduleClass)
        self.plateau = Plateau(config, num_steps, mode) if config.follows_metric else None
        shape = StepShape(config, num_steps - warmup, mode) if of_class and self.plateau is None else None
        name: ScheduleName = "constant" if isinstance(config.schedule, ScheduleClass) else config.schedule

        def factor(step: int) -> float:
            planned = schedule_factor(step, num_steps=num_steps, warmup=warmup, name=name, final=config.final_fraction)
            if shape is not None:
                shape.advance_to(max(0, step - warmup))
                return planned * shape.share
            return planned if self.plateau is None else planned * self.plateau.share

        super().__init__(optimizer, factor)

    def validated(self, metric: float) -> None:
        """Lower the learning rate from the next step on if this validation's metric requires it."""
        if self.plateau is not None:
            self.plateau.validated(metric)
            self.set_rates()

    def set_rates(self) -> None:
        """Set the rates of the next step in the optimizer's groups."""
        for group, peak, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = peak * factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the step, and what the plateau has seen."""
        return {**super().state_dict(), "plateau": self.plateau and self.plateau.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a state; the settings, not the state, decide whether there is a plateau."""
        seen = state_dict.get("plateau")
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "plateau"})
        if self.plateau is not None and seen is not None:
            self.plateau.load_state_dict(seen)


def build_schedule(
    optimizer: Optimizer, config: OptimConfig, num_steps: float, mode: Literal["min", "max"] = "max"
) -> Schedule:
    """Build the schedule that Lightning advances after each optimizer step.

    Raises: ConfigError when a setting needs an end and none is known, `num_steps` being infinite.
    """
    config.check_end(num_steps)
    return Schedule(optimizer, config, 0 if math.isinf(num_steps) else int(num_steps), mode)


def build_optimizer(module: nn.Module, config: OptimConfig, *, is_fused: bool = True) -> Optimizer:
    """Build the optimizer over the parameters that are trained."""
    groups = parameter_groups(module, config)
    adamw = partial(AdamW, lr=config.lr, betas=(0.9, config.beta2), fused=is_fused)
    optimizer: Optimizer
    if isinstance(config.optimizer, OptimizerClass):
        optimizer = config.optimizer.build(groups, adamw, module, config.lr)
    elif config.optimizer == "sgd":
        optimizer = SGD(groups, lr=config.lr, momentum=0.9, fused=is_fused)
    else:
        optimizer = adamw(groups)
    if tables := _sparse_tables(module):
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # or PyTorch warns
        own = {"weight_decay": 0.0, "l1": 0.0, "layers_above": groups[0]["layers_above"]}
        rows = Adagrad([{"params": tables, "lr": config.table_lr, **own}], lr=config.table_lr)
        # One level: parts of a part would not see the groups and the state of the whole.
        optimizer = JoinedOptimizer(
            [rows, *(optimizer.parts if isinstance(optimizer, JoinedOptimizer) else [optimizer])]
        )
    if config.l1:
        optimizer.register_step_post_hook(lambda stepped, *_: shrink(stepped))
    return optimizer


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Group the parameters that are trained by layer, the head last, and by whether they decay; only matrices do.

    Tables with sparse gradients have an optimizer of their own.

    Beside torch's keys a group has `l1`, and `layers_above`, the number of trained layers above it.

    Raises: ConfigError when layers are to be told apart and cannot be, or some would never be trained.
    """
    is_layered = config.layer_decay != 1 or config.unfreeze_fraction > 0
    layers = layer_numbers(module) if is_layered else {}
    head = max(layers.values(), default=0)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    sparse = {id(own) for own in _sparse_tables(module)}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in sparse:
            is_decayed = parameter.ndim >= 2 and id(parameter) not in tables
            members[layers.get(name, 0), not is_decayed].append(parameter)
    trained = sorted({layer for layer, _ in members}, reverse=True)
    _check_unfreezing(config.unfreeze_fraction, len(trained))
    return [
        {
            "params": members[layer, is_exempt],
            "lr": config.lr * config.layer_decay ** (head - layer),
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            "l1": 0.0 if is_exempt else config.l1,
            "layers_above": trained.index(layer),
        }
        for layer, is_exempt in sorted(members)
    ]


def _check_unfreezing(fraction: float, num_layers: int) -> None:
    if fraction * (num_layers - 1) >= 1:
        raise ConfigError(
            f"model.optim.unfreeze_fraction is {fraction}: the lowest of {num_layers} layers (embeddings and head "
            f"among them) would be reached after {fraction * (num_layers - 1):.2f} of the run. "
            f"Give less than 1/{num_layers - 1}, or name layers in model.optim.freeze."
        )


@torch.no_grad()
def shrink(optimizer: Optimizer) -> None:
    """Move the weights that were just updated towards 0 by learning rate x `l1`; what would cross 0 becomes 0.

    Like AdamW's weight decay this is kept out of the gradient, whose sign would only make weights jump around 0.

    Source: J. Duchi, Y. Singer (2009), "Efficient Online and Batch Learning Using Forward Backward Splitting",
    section 5.1.
    """
    for group in optimizer.param_groups:
        if group["l1"]:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    most = torch.finfo(parameter.dtype).max  # PyTorch refuses more
                    parameter.copy_(F.softshrink(parameter, min(group["lr"] * group["l1"], most)))


def clip_gradients(module: nn.Module, limit: float | None, algorithm: str | None) -> None:
    """Clip in place by total norm or by value; Lightning's own (2.6) refuses fused optimizers under autocast."""
    if limit and (gradients := gradient_values(module)):
        if algorithm == "value":
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
        else:
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def gradient_values(module: nn.Module) -> list[torch.Tensor]:
    """Return the values of all gradients, which may be changed in place; of a sparse one those of its rows, summed."""
    values = []
    for parameter in module.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    return values


def _sparse_tables(module: nn.Module) -> list[torch.Tensor]:
    """Return the tables that are trained by the rows of a step alone."""
    tables = [part.weight for part in module.modules() if isinstance(part, nn.Embedding) and part.sparse]
    return [own for own in tables if own.requires_grad]


def apply_settings(module: nn.Module, config: OptimConfig, optimizer: Optimizer, schedule: Schedule) -> None:
    """Replace a restored optimizer's and schedule's settings, which come from the checkpoint, by those of `config`.

    The schedule keeps its step and continues from there along the curve of its own settings.
    """
    for restored, wanted in zip(optimizer.param_groups, build_optimizer(module, config).param_groups, strict=True):
        # `fused` depends on the precision, not on these settings.
        restored.update({name: value for name, value in wanted.items() if name not in ("params", "fused")})
    schedule.base_lrs = [group["lr"] for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["initial_lr"] = peak
    schedule.set_rates()


def freeze(module: nn.Module, patterns: list[str]) -> None:
    """Exclude parameters from training by name.

    Raises: ConfigError when a pattern is broken, matches nothing, or when nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        try:
            matches = [name for name in names if re.match(pattern, name)]
        except re.error as error:
            raise ConfigError(f"model.optim.freeze: {pattern!r} is not a regular expression: {error}.") from error
        if not matches:
            raise ConfigError(f"model.optim.freeze: {pattern!r} matches no parameter. Names begin like {names[:5]}.")
        for name in matches:
            module.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("model.optim.freeze leaves no parameter to train. Drop a pattern.")


def drop_frozen_gradients(optimizer: Optimizer, step: int, steps_per_layer: float) -> None:
    """Drop the gradients of layers that are not trained yet: neither weights nor moments change.

    They keep taking gradients until here: DDP stops when a parameter gets none on one process.

    Args:
        step: optimizer steps done.
        steps_per_layer: optimizer steps from the start of a layer's training to that of the layer below.

    Source: J. Howard, S. Ruder (2018), "Universal Language Model Fine-tuning for Text Classification", section 3.3.
    """
    for group in optimizer.param_groups:
        if step < group["layers_above"] * steps_per_layer:
            for parameter in group["params"]:
                parameter.grad = None
