"""Errors shown to the user as one message without a traceback, and errors shortened to one line."""

import re


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of ours
    """Unusable input. The command line prints the message alone, without a traceback, and exits with status 2."""


class ConfigError(Refusal):
    """A setting, a command-line argument or a path that cannot be used. Names the setting and how to fix it."""


class DataError(Refusal):
    """A data file or row that cannot be used. Names file and line, what was found and how to fix it."""


class Shown(Exception):  # noqa: N818 - not an error
    """The arguments request a text (the message) instead of a run. The command line prints it and exits with 0."""


def without_password(uri: str) -> str:
    """Return an address with its password replaced by `***`."""
    return str(re.sub(r"://([^:/@]+):[^@/]*@", r"://\1:***@", uri))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; its class name when it has none."""
    text = without_password(str(error).strip())
    return text.splitlines()[0][:200] if text else type(error).__name__
