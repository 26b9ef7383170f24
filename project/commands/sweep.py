"""`lightrail sweep`: trains configurations from a search space until the study holds N finished trials."""

import importlib

STATUS = "--status"


def run(arguments: list[str]) -> int:
    """Run or resume a sweep, or print its status.

    Returns: 1 when the sweep has ended without one complete trial, else 0.

    Raises: ConfigError, DataError.
    """
    sweeping = importlib.import_module("lightrail.sweeps.command")  # by name: sweeps import this package, not it them
    rest = [argument for argument in arguments if argument != STATUS]
    line = sweeping.show_status(rest) if STATUS in arguments else sweeping.run_sweep(rest)
    print(line)
    concluding = importlib.import_module("lightrail.sweeps.report.concluding")
    return int(STATUS not in arguments and concluding.is_without_result(line))
