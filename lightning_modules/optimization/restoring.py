"""Going on under other settings than those that a checkpoint holds."""

from torch import nn
from torch.optim import Optimizer

from lightrail.lightning_modules.optimization.config import OptimConfig
from lightrail.lightning_modules.optimization.groups import build_optimizer
from lightrail.lightning_modules.optimization.schedules import Schedule


def apply_settings(module: nn.Module, config: OptimConfig, optimizer: Optimizer, schedule: Schedule) -> None:
    """Give a restored optimizer and its schedule the settings of `config`, which a checkpoint's would hide.

    The schedule stays at its step and goes on from there along the curve of its own settings.
    """
    for restored, wanted in zip(optimizer.param_groups, build_optimizer(module, config).param_groups, strict=True):
        restored.update({name: value for name, value in wanted.items() if name not in ("params", "fused")})
    schedule.base_lrs = [group["lr"] for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["initial_lr"] = peak
    schedule.set_rates()
