"""`lightrail sweep`: trains configurations from a search space until the study holds N finished trials."""

import importlib

STATUS = "--status"


def run(arguments: list[str]) -> int:
    """Run or resume a sweep, or print its status. Raises: ConfigError, DataError."""
    sweeping = importlib.import_module("lightrail.sweeps.command")  # by name: sweeps import this package, not it them
    rest = [argument for argument in arguments if argument != STATUS]
    print(sweeping.show_status(rest) if STATUS in arguments else sweeping.run_sweep(rest))
    return 0
