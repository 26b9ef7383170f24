"""`lightrail sweep`: trains configurations from a search space until the study holds N finished trials."""

import importlib

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration.sources import JSON, take_flag

STATUS = "--status"


def run(arguments: list[str]) -> int:
    """Run or resume a sweep, or print its status.

    Returns: 1 when the sweep has ended without one complete trial, else 0.

    Raises: ConfigError, DataError.
    """
    sweeping = importlib.import_module("lightrail.sweeps.command")  # by name: sweeps import this package, not it them
    is_status, given = take_flag(arguments, STATUS)
    is_json, rest = take_flag(given, JSON)
    if is_json and not is_status:
        raise ConfigError("--json is for --status. The result of a sweep is `lightrail sweep ... --status --json`.")
    line = sweeping.show_status(rest, is_json=is_json) if is_status else sweeping.run_sweep(rest)
    print(line)
    concluding = importlib.import_module("lightrail.sweeps.report.concluding")
    return int(not is_status and concluding.is_without_result(line))
