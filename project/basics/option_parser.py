"""The parser of commands that take options instead of a configuration."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, plain, shown


class OptionParser(argparse.ArgumentParser):
    """Argument parser with `--tracking.uri` as `uri`, whose errors are ConfigError.

    Args:
        command: name of the command, such as `compare`.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=f"lightrail {command}", allow_abbrev=False, add_help=False)
        self.add_argument("--tracking.uri", dest="uri")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse options and positional arguments in any order. Raises: ConfigError naming the unknown option."""
        options, unknown = self.parse_known_intermixed_args(arguments)
        for name in (word.partition("=")[0] for word in unknown if word.startswith("-")):
            raise ConfigError(f"{self.prog}: no option {plain(name)}.{did_you_mean(name, self._option_string_actions)}")
        if unknown:
            self.error(f"unexpected argument {shown(unknown[0])}")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError, where argparse would exit."""
        raise ConfigError(f"{self.prog}: {message}. `{self.prog} --help` lists the options.")
