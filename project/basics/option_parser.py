"""Command lines that are lists of options and no configuration."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError


class OptionParser(argparse.ArgumentParser):
    """Takes `--tracking.uri` as `uri`, and refuses in one line, as all of our commands do.

    Args:
        command: its name, behind `lightrail`.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"lightrail {command}", allow_abbrev=False, add_help=False)
        self.add_argument("--tracking.uri", dest="uri")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse options and positional arguments in any order."""
        options, unknown = self.parse_known_intermixed_args(arguments)
        for name in (word.partition("=")[0] for word in unknown if word.startswith("-")):
            raise ConfigError(f"{self.prog}: no option {name}.{did_you_mean(name, self._option_string_actions)}")
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return options

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. `{self.prog} --help` lists what there is.")
