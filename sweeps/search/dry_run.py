"""Before the first trial: every setting exists, every corner of the space can be built, every metric is measured."""

import logging
from typing import Any

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, Refusal
from lightrail.project.configuration import Configuration
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.space import Settings
from lightrail.sweeps.trials.process import call_forked

log = logging.getLogger(__name__)

MOST_BUILT = 16
"""Corners that are built, spread over all; of the others the settings alone are checked."""


def rehearse(sweep: Sweep) -> None:
    """Refuse a sweep of which some trial could only fail.

    Raises: ConfigError naming the setting, and the corner of the space that it stands in.
    """
    corners = _configurations(sweep)
    step = -(-len(corners) // MOST_BUILT)
    chosen = [(_named(corner), configuration.values) for corner, configuration in corners[::step]]
    refusal = call_forked(build_corners, chosen, sweep.config.metrics)
    if refusal:
        raise ConfigError(refusal)
    log.info("%d corners of the space have settings that exist, %d of them were built", len(corners), len(chosen))


def _configurations(sweep: Sweep) -> list[tuple[Settings, Configuration]]:
    found = []
    for corner in sweep.space.corners():
        try:
            found.append((corner, sweep.configuration(corner)))
        except ConfigError as error:
            raise ConfigError(f"space: {error} This was with {_named(corner)}.") from error
    return found


def build_corners(corners: list[tuple[str, dict[str, Any]]], metrics: list[str]) -> str:
    """Build each; give what is wrong, "" where nothing is. Run in a process of its own, whose memory ends with it."""
    from lightrail.project.running.build import build

    for name, values in corners:
        try:
            experiment = build(Configuration(values), "fit")
        except Refusal as refusal:
            return f"space: a trial with {name} cannot be built: {refusal}"
        known = experiment.model.validation_metrics()
        for metric in metrics:
            if metric not in known:
                return (
                    f"metric: {type(experiment.model).__name__} does not measure {metric}.{did_you_mean(metric, known)}"
                )
    return ""


def _named(corner: Settings) -> str:
    return ", ".join(f"{name}={value}" for name, value in corner.items())
