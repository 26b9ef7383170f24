"""Errors shown to the user as one message without a traceback, and errors shortened to one line."""

import re


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of ours
    """Unusable input. The command line prints the message alone, without a traceback, and exits with status 2."""


class ConfigError(Refusal):
    """A setting, a command-line argument or a path that cannot be used. Names the setting and how to fix it."""


class DataError(Refusal):
    """A data file or row that cannot be used. Names file and line, what was found and how to fix it."""


class Diverged(Exception):  # noqa: N818 - its name is in the run's tag
    """A training whose loss is not finite. The command line prints the message alone, and exits with status 1."""


class Shown(Exception):  # noqa: N818 - not an error
    """The arguments request a text (the message) instead of a run. The command line prints it and exits with 0."""


def without_password(uri: str) -> str:
    """Return an address with its password replaced by `***`."""
    return str(re.sub(r"://([^:/@]+):[^@/]*@", r"://\1:***@", uri))


def shown(value: object, most: int = 80) -> str:
    """Return a value's `repr` for a message: printable, on one line, at most `most` characters long.

    Whatever a message quotes from a user goes through here: values can be megabytes long, hold control characters that
    change the terminal, or surrogates that no stream can write.
    """
    if isinstance(value, str | bytes):
        value = value[: most + 1]  # the repr of a text of a gigabyte takes seconds
    try:
        text = ascii(value) if isinstance(value, bytes) else repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; deep nesting
        text = f"<{type(value).__name__}>"
    return plain(text, most)


def plain(text: str, most: int = 80) -> str:
    """Return a text for a message without quotes: printable, on one line, at most `most` characters long."""
    text = _printable(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\\x" + f"{ord(char):02x}" for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; its class name when it has none."""
    try:
        text = without_password(str(error).strip()[:2000])
    except (ValueError, RecursionError):  # such as a message that holds an integer of more than 4,300 digits
        text = ""
    return _printable(text.splitlines()[0][:200]) if text else type(error).__name__
