"""`lightrail sweep`: trains configurations out of a space until the study holds as many as were asked for."""

import importlib

STATUS = "--status"


def run(arguments: list[str]) -> int:
    sweeping = importlib.import_module("lightrail.sweeps.command")  # by name: sweeps import this package, not it them
    rest = [argument for argument in arguments if argument != STATUS]
    print(sweeping.show_status(rest) if STATUS in arguments else sweeping.run_sweep(rest))
    return 0
