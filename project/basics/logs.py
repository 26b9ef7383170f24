"""Where log lines go: ours to the terminal, of the libraries' only what needs attention."""

import logging
import os
import sys
import warnings

OWN_PACKAGE = "lightrail"


def set_up_logging() -> None:
    """Send log lines to standard error, with `rich` on a terminal. Processes other than the first only warn."""
    handler = _handler()
    handler.addFilter(_is_wanted)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger(OWN_PACKAGE).setLevel(logging.INFO if _is_first_process() else logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow has a handler of its own
    # Lightning 2.6 on torch 2.13; nothing a user could do about it.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
    # A run that goes on writes where it wrote before.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # That a task's configure_model would make layers, which ours do not; and that a test has no training to go on with.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
    warnings.formatwarning = lambda message, *_: str(message).strip()  # the source line says nothing to the user
    logging.captureWarnings(True)


def take_over_lightning() -> None:
    """Send Lightning's lines where ours go. It gives itself a handler when it is imported, so call this afterwards."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()


def silence_transformers() -> None:
    """Have transformers show no progress bar for reading and writing a folder, which takes a moment."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _handler() -> logging.Handler:
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        return RichHandler(console=Console(stderr=True), show_path=False, omit_repeated_times=False)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


def _is_wanted(record: logging.LogRecord) -> bool:
    """Levels alone do not do: Lightning sets its own to INFO when imported, and tells tips and advertisements there."""
    return record.levelno >= logging.WARNING or record.name.split(".")[0] == OWN_PACKAGE


def _is_first_process() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
