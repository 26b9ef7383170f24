"""Errors shown to the user as one message without a traceback, and errors shortened to one line."""

import errno
import re
import unicodedata
from typing import NamedTuple

MOST_CHARACTERS = 1000
"""Length of a message on the terminal."""


class Refusal(Exception):  # noqa: N818 - not every refusal is an error of ours
    """Unusable input. The command line prints the message alone, without a traceback, and exits with status 2.

    Args:
        advice: follows the message on the terminal, at any length: commands to paste, which may not be cut.
    """

    def __init__(self, message: object = "", *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class ConfigError(Refusal):
    """A setting, a command-line argument or a path that cannot be used. Names the setting and how to fix it."""


class DataError(Refusal):
    """A data file or row that cannot be used. Names file and line, what was found and how to fix it."""


class Diverged(Exception):  # noqa: N818 - its name is in the run's tag
    """A training whose loss is not finite. The command line prints the message alone, and exits with status 1."""


class Shown(Exception):  # noqa: N818 - not an error
    """The arguments request a text (the message) instead of a run. The command line prints it and exits with 0."""


OF_STORES = ("mlflow.exceptions", "sqlalchemy.exc", "sqlite3", "optuna.exceptions")
"""Modules of exceptions that a damaged, locked or unreachable store raises. Trainings record them and raise others."""


OF_COMPILING = ("torch._inductor", "torch._dynamo")
"""Modules of exceptions of torch.compile, which first runs in a training."""


class Foreseen(NamedTuple):
    """The end of a command that an exception causes."""

    status: int
    """1 failed, 2 refused."""
    message: str


def foreseen(error: Exception) -> Foreseen | None:
    """Return what to tell of an exception, and the status to exit with; None of one that is a mistake of a program."""
    if isinstance(error, Refusal):
        return Foreseen(2, for_terminal(str(error)) + error.advice)
    if isinstance(error, Diverged):
        return Foreseen(1, for_terminal(str(error)))
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # found wherever a path is first looked at
        return Foreseen(
            2, f"{shown(error.filename)} is too long for a file name. Check the path, or the name of a run."
        )
    if (full := full_disk(error)) is not None:
        return Foreseen(1, for_terminal(f"the disk is full: {full}. Free space, then resume the run."))
    return _of_a_library(error)


def _of_a_library(error: Exception) -> Foreseen | None:
    reason = plain(first_line(error), 200).rstrip(".")
    if type(error).__module__.startswith(OF_STORES):
        fix = "Restore a copy of it, or choose another tracking.uri or storage."
        return Foreseen(2, f"the database of the runs or of the study cannot be used: {reason}. {fix}")
    if type(error).__module__.startswith(OF_COMPILING):
        fix = "It needs a C++ compiler that works, such as g++. Install one, or set is_compiled to false."
        return Foreseen(2, f"torch.compile fails here: {reason}. {fix}")
    return None


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
        text = (ascii(value) if isinstance(value, bytes) else repr(value))[: 10 * most]
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; deep nesting
        text = f"<{type(value).__name__}>"
    return plain(text, most)


def plain(text: str, most: int = 80) -> str:
    """Return a text for a message without quotes: printable, on one line, at most `most` characters long."""
    text = printable(" ".join(text[: 4 * most].split()))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def full_disk(error: BaseException | None) -> str | None:
    """Return the message of an error on a full disk among an error and those that it followed from; None without."""
    while error is not None:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if is_full or "database or disk is full" in str(error):
            return first_line(error).rstrip(".")
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters; its class name when it has none.

    A line that ends with a colon announces the next one, which is added.

    >>> first_line(ValueError("field 'width':\\n    a number is needed")), first_line(KeyError("gelu"))
    ("field 'width': a number is needed", "there is no 'gelu'")
    """
    try:
        text = without_password(str(error).strip()[:2000])
    except (ValueError, RecursionError):  # such as a message that holds an integer of more than 4,300 digits
        text = ""
    if not text:
        return type(error).__name__
    first, *others = text.splitlines()
    line = f"{first} {others[0].strip()}" if others and first.endswith(":") else first
    return printable(f"there is no {line}" if isinstance(error, KeyError) and isinstance(error.args[0], str) else line)[
        :200
    ]


def printable(text: str) -> str:
    """Return a text of several lines, parts of which a stranger may have written, so that a terminal can show it.

    Characters that control a terminal, change the order of letters, or cannot be written are escaped.

    >>> printable("a\\tname\\n\\x1b[31m")
    'a\\tname\\n\\\\x1b[31m'
    """
    return "".join(char if _is_harmless(char) else _escaped(char) for char in text)


def for_terminal(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text that a terminal can show, see `printable`, cut to `most` characters."""
    return cut(printable(cut(text, 2 * most)), most)


def cut(text: str, most: int) -> str:
    """Cut a text in its middle: what was wrong stands at the start of a message, and how to fix it at the end."""
    return text if len(text) <= most else f"{text[: most * 6 // 10]} [...] {text[len(text) - most * 4 // 10 + 7 :]}"


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
