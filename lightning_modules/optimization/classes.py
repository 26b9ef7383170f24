"""Optimizers and schedules of torch by class path: what a configuration may name, and how each is built."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Literal, TypeAlias, final

from torch import nn
from torch.optim import LBFGS, AdamW, Muon, Optimizer, SparseAdam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    LambdaLR,
    LRScheduler,
    MultiplicativeLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from lightrail.project.basics.annotations import DeferredClass
from lightrail.project.basics.errors import ConfigError, first_line

log = logging.getLogger(__name__)

Groups: TypeAlias = list[dict[str, Any]]
_OUTPUTS = {"head", "output", "lm_head"}
"""Names of parts whose weights give the outputs of a network."""
_NO_OPTIMIZERS: dict[type, str] = {
    LBFGS: "computes the loss several times per step, and takes a single group of parameters. Choose adamw",
    SparseAdam: "takes sparse gradients alone, and gradients here are dense. Choose torch.optim.Adam",
}
_OF_FUNCTIONS = "takes a function, which a configuration cannot name. Choose another, or derive a class of your own"
_OF_SCHEDULES = "takes other schedules. Choose one of them, with model.optim.warmup_fraction before it"
_NO_SCHEDULES: dict[type, str] = {
    LRScheduler: "is a base class. Choose one derived from it",
    LambdaLR: _OF_FUNCTIONS,
    MultiplicativeLR: _OF_FUNCTIONS,
    SequentialLR: _OF_SCHEDULES,
    ChainedScheduler: _OF_SCHEDULES,
}


@final
@dataclass(frozen=True, kw_only=True)
class OptimizerClass(DeferredClass):
    """An optimizer by class path; learning rate, weight decay and groups are those of every optimizer here."""

    given: ClassVar[Mapping[type, Mapping[str, str]]] = {
        Optimizer: {
            "params": "model.optim.freeze decides which parameters are trained",
            "lr": "model.optim.lr is the learning rate of every optimizer",
            "weight_decay": "model.optim.weight_decay is that of every optimizer",
            "fused": "torch chooses the implementation",
            "differentiable": "no gradient passes through the steps of a training",
        }
    }
    refused: ClassVar[Mapping[type, str]] = _NO_OPTIMIZERS

    @classmethod
    def base(cls) -> type:
        """Return the class that it must be derived from."""
        return Optimizer

    def build(self, groups: Groups, others: Callable[[Groups], AdamW], module: nn.Module, lr: float) -> Optimizer:
        """Build the optimizer. Raises: ConfigError when it refuses its arguments.

        Args:
            others: builds the optimizer of the parameters that this one cannot update.
        """
        found: Any = self.find()
        arguments = dict(self.arguments)
        self.check(found, "model.optim.optimizer")
        try:
            if issubclass(found, Muon):
                if arguments.get("adjust_lr_fn") is None:  # one learning rate then suits its matrices and all else
                    arguments["adjust_lr_fn"] = "match_rms_adamw"
                is_hidden = hidden_matrices(module)
                return JoinedOptimizer(
                    [found(_part(groups, is_hidden, True), lr=lr, **arguments), others(_part(groups, is_hidden, False))]
                )
            built: Optimizer = found(groups, lr=lr, **arguments)
            if "weight_decay" not in signature(found).parameters and any(own["weight_decay"] for own in groups):
                log.warning("model.optim.weight_decay has no effect: %s has none", self.name)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"model.optim.optimizer: {self.name} refuses its settings: {first_line(error)}"
            ) from error
        return built


class JoinedOptimizer(Optimizer):
    """Several optimizers, each of its own parameters, as one."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Have the parts see the groups and the state of the whole, which schedules and checkpoints change."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """Update all parameters; return the loss of a closure, which is called once."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore groups and state in all parts."""
        super().load_state_dict(state_dict)
        self._share()


def hidden_matrices(module: nn.Module) -> set[int]:
    """Return the identities of the matrices between embeddings and outputs. Raises: ConfigError when there are none.

    Source: K. Jordan (2024), "Muon: An optimizer for hidden layers in neural networks", which leaves the first and the
    last layer to AdamW.
    """
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)}
    found = {
        id(own)
        for name, own in module.named_parameters()
        if own.requires_grad and own.ndim == 2 and id(own) not in tables and not _OUTPUTS & {*name.split(".")}
    }
    if not found:
        raise ConfigError(
            "model.optim.optimizer: Muon updates matrices of hidden layers, and none is trained. Use adamw."
        )
    return found


def _part(groups: Groups, chosen: set[int], is_chosen: bool) -> Groups:
    """Return the groups of those parameters that are chosen, or are not."""
    parts = [
        {**group, "params": [own for own in group["params"] if (id(own) in chosen) == is_chosen]} for group in groups
    ]
    return [group for group in parts if group["params"]]


@final
@dataclass(frozen=True, kw_only=True)
class ScheduleClass(DeferredClass):
    """A learning-rate schedule by class path. Rates that it names are those of the parameters that learn at `lr`."""

    given: ClassVar[Mapping[type, Mapping[str, str]]] = {
        LRScheduler: {
            "optimizer": "model.optim.optimizer is the optimizer",
            "last_epoch": "a resumed run continues from its step",
            "cycle_momentum": "the momentum stays that of the optimizer",
            "base_momentum": "the momentum stays that of the optimizer",
            "max_momentum": "the momentum stays that of the optimizer",
            "epochs": "the schedule counts optimizer steps: give total_steps",
            "steps_per_epoch": "the schedule counts optimizer steps: give total_steps",
        },
        ReduceLROnPlateau: {"mode": "the metric decides whether less is better"},
    }
    refused: ClassVar[Mapping[type, str]] = _NO_SCHEDULES

    @classmethod
    def base(cls) -> type:
        """Return the class that it must be derived from."""
        return LRScheduler

    @property
    def follows_metric(self) -> bool:
        """Whether it advances by the metrics of validations, and not by steps."""
        return issubclass(self.find(), ReduceLROnPlateau)

    @property
    def counts_to_end(self) -> bool:
        """Whether it needs the number of steps of the training, which its arguments do not give."""
        return "total_steps" in self.arguments and self.arguments["total_steps"] is None

    def build(self, optimizer: Optimizer, num_steps: int, mode: Literal["min", "max"], peak: float) -> Any:
        """Build the schedule of an optimizer. Raises: ConfigError when it refuses its arguments.

        Args:
            num_steps: optimizer steps of the training without those of warm-up.
            peak: learning rate of which one that follows metrics gives fractions; of others it is the optimizer's.
        """
        found, arguments = self.find(), dict(self.arguments)
        self.check(found, "model.optim.schedule")
        if self.follows_metric:
            rates = {name: arguments.get(name) for name in ("min_lr", "eps")}
            arguments |= {name: rate / peak for name, rate in rates.items() if isinstance(rate, int | float)}
            arguments["mode"] = mode
        if self.counts_to_end:
            arguments["total_steps"] = max(1, num_steps)
        if "cycle_momentum" in signature(found).parameters:
            arguments["cycle_momentum"] = False
        try:
            return found(optimizer, **arguments)
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"model.optim.schedule: {self.name} refuses its settings: {first_line(error)}") from error
