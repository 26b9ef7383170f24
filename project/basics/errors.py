"""What the user is told when lightrail refuses to go on, and how errors are put into one line."""

import re


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of ours
    """Bad input. The command line prints the message alone, without a traceback, and exits with status 2."""


class ConfigError(Refusal):
    """A setting, a command-line argument or a path that cannot be used. Names the setting and how to fix it."""


class DataError(Refusal):
    """A data file or row that cannot be used. Names file and line, what was found and how to fix it."""


class Shown(Exception):  # noqa: N818 - not an error
    """The arguments ask for a text, which is the message, and not for a run. The command line prints it: status 0."""


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    return str(re.sub(r"://([^:/@]+):[^@/]*@", r"://\1:***@", uri))


def first_line(error: BaseException) -> str:
    """What an error says first, in at most 200 characters; its name where it says nothing."""
    text = without_password(str(error).strip())
    return text.splitlines()[0][:200] if text else type(error).__name__
