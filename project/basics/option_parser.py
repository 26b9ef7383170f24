"""Command lines that are lists of options and no configuration."""

import argparse
from typing import NoReturn

from lightrail.project.basics.errors import ConfigError


class OptionParser(argparse.ArgumentParser):
    """Refuses in one line, as all of our commands do.

    Args:
        command: its name, behind `lightrail`.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"lightrail {command}", allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. `{self.prog} --help` lists what there is.")
