"""The learning rate of each step: a curve laid out before, or lowered when validations stop getting better."""

import math
from typing import Any, Literal

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightrail.lightning_modules.optimization.config import OptimConfig, ScheduleName


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


class Plateau:
    """The factor that validations without a better metric lower; torch's ReduceLROnPlateau decides when.

    Any improvement counts as one, as for the best checkpoint.
    """

    def __init__(self, config: OptimConfig, mode: Literal["min", "max"]) -> None:
        self._share = SGD([torch.zeros(1)], lr=1.0)
        self._decision = ReduceLROnPlateau(
            self._share,
            mode,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            threshold=0.0,
            threshold_mode="abs",
            min_lr=config.final_fraction,
        )

    @property
    def share(self) -> float:
        """The factor, in (0, 1]; it multiplies the learning rate."""
        return float(self._share.param_groups[0]["lr"])

    def validated(self, metric: float) -> None:
        """Count a validation, and lower the factor where it is time."""
        self._decision.step(metric)

    def state_dict(self) -> dict[str, float]:
        """Return what was seen, without the settings: another patience counts from the next validation on."""
        decision = self._decision
        return {"share": self.share, "best": float(decision.best), "num_bad_validations": decision.num_bad_epochs}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self._share.param_groups[0]["lr"] = state["share"]
        self._decision.best, self._decision.num_bad_epochs = state["best"], int(state["num_bad_validations"])


class Schedule(LambdaLR):
    """The learning-rate schedule, advanced after each optimizer step and, for a plateau, by each validation's metric.

    Args:
        num_steps: optimizer steps of the whole run; 0 when nothing depends on it.
        mode: whether a better metric is a smaller or a larger one.
    """

    def __init__(self, optimizer: Optimizer, config: OptimConfig, num_steps: int, mode: Literal["min", "max"]) -> None:
        self.plateau = Plateau(config, mode) if config.schedule == "plateau" else None
        warmup = math.ceil(config.warmup_fraction * num_steps)

        def factor(step: int) -> float:
            planned = schedule_factor(
                step, num_steps=num_steps, warmup=warmup, name=config.schedule, final=config.final_fraction
            )
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
