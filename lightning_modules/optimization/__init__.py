"""Optimizer, learning-rate schedule and freezing: the settings every task shares."""

from lightrail.lightning_modules.optimization.classes import OptimizerClass, ScheduleClass
from lightrail.lightning_modules.optimization.config import OptimConfig, ScheduleName
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.lightning_modules.optimization.optimizer import (
    Schedule,
    apply_settings,
    build_optimizer,
    build_schedule,
    clip_gradients,
    drop_frozen_gradients,
    freeze,
    gradient_values,
    parameter_groups,
    schedule_factor,
)

__all__ = [
    "OptimConfig",
    "OptimizerClass",
    "Schedule",
    "ScheduleClass",
    "ScheduleName",
    "apply_settings",
    "build_optimizer",
    "build_schedule",
    "clip_gradients",
    "drop_frozen_gradients",
    "freeze",
    "gradient_values",
    "layer_numbers",
    "parameter_groups",
    "schedule_factor",
]
