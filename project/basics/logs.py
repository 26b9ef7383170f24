"""Logging set-up: lightrail's lines go to the terminal, the libraries' from warnings on."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from lightrail.project.basics.errors import for_terminal

if TYPE_CHECKING:
    from rich.console import Console

OWN_PACKAGE = "lightrail"
NO_LOGGER = ".*no logger configured"
"""Pattern of a warning of Lightning: a value is logged, and the trainer has no logger."""
LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
MOST_CHARACTERS_OF_RECORD = 100_000
"""The log of a trial holds tracebacks."""


def set_up_logging() -> None:
    """Send log lines to standard error, with `rich` on a terminal; processes other than the first log only warnings."""
    handler = _handler()
    handler.addFilter(_is_wanted)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger(OWN_PACKAGE).setLevel(logging.INFO if _is_first_process() else logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow has a handler of its own
    ignore_known_warnings()
    warnings.formatwarning = lambda message, *_: str(message).strip()  # the source line is of no use to the user
    logging.captureWarnings(True)


def ignore_known_warnings() -> None:
    """Ignore warnings of libraries that are known, and that the user can do nothing about."""
    # Lightning 2.6 on torch 2.13; the user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
    # A resumed run writes to its earlier folder.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Our loaders repeat the batches of one epoch themselves.
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled")
    # Warns of layers made in configure_model, where our tasks make none; and of a test without a training to resume.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
    # Of a plain module's loaders, whose batches already seen are skipped.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")


@contextmanager
def lines_shown() -> Iterator[None]:
    """Show lightrail's log lines on standard error within the block, unless the program has set up logging itself."""
    own = logging.getLogger(OWN_PACKAGE)
    if own.hasHandlers() or own.level != logging.NOTSET:
        yield
        return
    handler = _handler()
    own.addHandler(handler)
    own.setLevel(logging.INFO if _is_first_process() else logging.WARNING)
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(logging.NOTSET)


@contextmanager
def without_warning(message: str) -> Iterator[None]:
    """Leave out a library's warning that matches a pattern, within the block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message)
        yield


def take_over_lightning() -> None:
    """Remove Lightning's own log handlers. Call it after the import of Lightning, which sets them."""
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).handlers.clear()


def silence_transformers() -> None:
    """Turn off transformers' progress bars for reading and writing model folders."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


@cache
def terminal() -> "Console":
    """Return the console on standard error: one for log lines and progress, since two write over each other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)  # standard output is for results, which may go to a file


def _handler() -> logging.Handler:
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        on_terminal = RichHandler(console=terminal(), show_path=False, omit_repeated_times=False, keywords=[])
        on_terminal.setFormatter(_Harmless("%(message)s", "%H:%M:%S"))  # time and level are rich's
        return on_terminal
    handler = logging.StreamHandler()
    handler.setFormatter(_Harmless("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


class _Harmless(logging.Formatter):
    """Formats a record without characters that control a terminal or cannot be written, such as those of a label."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record), most=MOST_CHARACTERS_OF_RECORD)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether to show a record: all of lightrail's, and those of libraries from warnings on."""
    # Logger levels are not enough: Lightning sets its own to INFO on import, and logs tips and advertisements there.
    return record.levelno >= logging.WARNING or record.name.split(".")[0] == OWN_PACKAGE


def _is_first_process() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
