"""Why a trial of several processes ended early, when its first process only finds that another one has gone."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from lightrail.sweeps.trials.messages import Failed


def note_cause(log: str, failure: Failed) -> None:
    """Say why this process ends, before it does. The first one to say so is the cause, and the others' ends follow.

    Args:
        log: the trial's, beside which this is kept.
    """
    cause = _cause(log)
    own = cause.with_name(f"{cause.name}.{os.getpid()}")
    own.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    with suppress(FileExistsError):  # another one was earlier
        os.link(own, cause)  # whole, or not at all
    own.unlink()


def cause_in_others(log: str) -> Failed | None:
    """Give what `note_cause` was told first; None when the further processes of the trial have nothing to say."""
    cause = _cause(log)
    return Failed(**json.loads(cause.read_text(encoding="utf-8"))) if cause.exists() else None


def forget_cause(log: str) -> None:
    """Begin anew: a trial that goes on writes to the same files."""
    _cause(log).unlink(missing_ok=True)


def _cause(log: str) -> Path:
    return Path(log).with_suffix(".cause")
