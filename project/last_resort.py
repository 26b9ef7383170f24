"""The end of a command that failed: what reaches the terminal, and where the traceback of an unforeseen exception is.

It uses the standard library alone: it must work with little memory left, and in a damaged installation.
"""

import errno
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType

from lightrail.project.basics.catalogue import FOLDERS, IMPORTED, ROOT
from lightrail.project.basics.errors import cut, for_terminal, without_password

MOST_CHARACTERS_OF_ERROR = 300
MOST_CHARACTERS_OF_FILE = 1_000_000
"""Length of a traceback that is written: an exception may quote gigabytes."""
NUM_KEPT = 20
"""Tracebacks that are kept; older ones are removed."""
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM)
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def report(error: BaseException, arguments: Sequence[str], *, shows_traceback: bool) -> None:
    """Write one line about an exception that nobody foresaw to standard error, and its traceback to a file.

    Args:
        arguments: of the command line.
        shows_traceback: write the traceback to standard error instead.
    """
    whole = without_password(cut(_traceback(error), MOST_CHARACTERS_OF_FILE))
    file = None if shows_traceback else _written(f"lightrail {' '.join(arguments)}\n\n{whole}")
    if file is None:
        sys.stderr.write(whole.encode("utf-8", errors="backslashreplace").decode("utf-8"))
    found = f"{type(error).__name__}: {cut(_message(error), MOST_CHARACTERS_OF_ERROR)}".rstrip(".")
    doing = f"lightrail {arguments[0][:40]}" if arguments else "lightrail"
    where = "the traceback is above" if file is None else f"the traceback is in {file}"
    sys.stderr.write(f"lightrail: error: {for_terminal(f'`{doing}` failed with {found}. {_cause(error)}; {where}')}\n")


def _traceback(error: BaseException) -> str:
    with suppress(Exception):
        return "".join(traceback.format_exception(error))
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__, "\n"])  # it cannot be shown


def _message(error: BaseException) -> str:
    """Return a message, of any number of lines, on one: its first may be a mere heading."""
    with suppress(Exception):
        return " ".join(without_password(str(error)[:2000]).split()) or "no message"
    return "no message"  # one that cannot be shown, such as one with an integer of more than 4,300 digits


def _cause(error: BaseException) -> str:
    """Say whom an exception concerns: the machine, an author of a plugin, or lightrail's own."""
    if is_out_of_memory(error):
        return "There is not enough memory: use smaller batches (data.batch) or a smaller network"
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return "The machine refused it: check its disk space, quotas and limits"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if _file(frame) and not _is_library(frame)]
    if not frames:
        return "This is a bug"
    innermost, line = frames[-1], _line(error, frames[-1])
    if _is_ours(_file(innermost)):
        return f"This is a bug in lightrail (at {_file(innermost).relative_to(ROOT)}:{line}): please report it"
    return f"It comes from {_file(innermost)}:{line} ({innermost.f_code.co_name}), which is not part of lightrail"


def _line(error: BaseException, frame: FrameType) -> int:
    return [line for own, line in traceback.walk_tb(error.__traceback__) if own is frame][-1]


def _file(frame: FrameType) -> Path:
    """Return the file of a frame; an empty path where there is none, as for `<string>` and for compiled code."""
    file = Path(frame.f_code.co_filename).resolve()  # the package is links to its folders
    return file if file.is_file() else Path()


def _is_ours(file: Path) -> bool:
    return any(file.is_relative_to(ROOT / name) for name in (*FOLDERS, "lightrail"))


def _is_library(frame: FrameType) -> bool:
    file = _file(frame)
    if file == Path():
        return True
    if _is_ours(file) or str(frame.f_globals.get("__name__")).partition(".")[0] in IMPORTED:
        return False
    return {"site-packages", "dist-packages"} & {*file.parts} != set() or any(map(file.is_relative_to, _LIBRARIES))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the memory of the machine or of a device is exhausted."""
    # PyTorch raises a plain RuntimeError when a CPU's memory is exhausted
    is_of_torch = any(text in _message(error) for text in ("not enough memory", "can't allocate memory"))
    return is_of_torch or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _written(text: str) -> Path | None:
    """Write a traceback to the user's state folder, and remove the oldest ones. Returns: None if that is impossible."""
    from lightrail.project.tracking.store import state_folder

    with suppress(Exception):
        folder = state_folder() / "tracebacks"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.txt"
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
        for old in sorted(folder.glob("*.txt"))[:-NUM_KEPT]:
            old.unlink(missing_ok=True)
        return file
    return None
