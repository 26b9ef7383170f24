"""What the user is told when lightrail refuses to go on."""


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of ours
    """Bad input. The command line prints the message alone, without a traceback, and exits with status 2."""


class ConfigError(Refusal):
    """A setting, a command-line argument or a path that cannot be used. Names the setting and how to fix it."""


class DataError(Refusal):
    """A data file or row that cannot be used. Names file and line, what was found and how to fix it."""
