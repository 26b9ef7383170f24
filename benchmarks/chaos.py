"""Kills a run repeatedly at random moments, resumes it each time, and compares the result with an undisturbed run.

Processes are forked from one that has imported everything, so that an attempt takes a second and not ten. A moment is a
point in time, or a point inside an atomic operation: a checkpoint half written, not yet synced, not yet renamed, just
renamed; a line of the journal half written. Run: python -m benchmarks.chaos --kills 200
"""

import argparse
import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lightrail.project.commands.fit
import lightrail.project.commands.resume
import lightrail.sweeps.trials.preloaded  # noqa: F401 - also the late imports of commands
from lightrail.project.basics.durable import UNFINISHED
from lightrail.project.cli import run as run_command

SETTINGS = [
    *("--config=text_classification", "--model.encoder.width=32", "--model.encoder.ngram_buckets=2048"),
    *("--trainer.max_epochs=-1", "--trainer.max_steps=400", "--trainer.precision=32-true"),
    *("--trainer.val_check_interval=50", "--trainer.check_val_every_n_epoch=null", "--trainer.limit_val_batches=5"),
    *("--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"),
    *("--data.batch.max_tokens=1024", "--tracking.checkpoint.every_steps=3"),
]
SECONDS_OF_AN_ATTEMPT = 300
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Kill:
    """The interruption of a process."""

    moment: str
    signal: str
    status: int
    """Status by os.waitpid."""


def train_undisturbed(arguments: list[str], folder: Path) -> str:
    """Train in a process of its own, and return the id of its run."""
    status = _wait(_fork(["fit", *arguments], folder, lambda: None))
    if status:
        raise RuntimeError(f"the undisturbed run ended with status {status}: {_log(folder)}")
    return _run_id(folder)


def train_disturbed(arguments: list[str], folder: Path, num_kills: int, seed: int) -> tuple[str, list[Kill]]:
    """Train with `num_kills` interruptions; return the id of the run, and the interruptions.

    Fewer are returned when an attempt ends before it is interrupted.
    """
    chance = random.Random(seed)
    kills: list[Kill] = []
    command = ["fit", *arguments]
    while len(kills) < num_kills:
        moment = MOMENTS[len(kills) % len(MOMENTS)]
        number = chance.choice(SIGNALS) if moment == "time" else signal.SIGKILL
        delay = chance.uniform(0.0, 1.0)
        countdown = chance.randrange(1, 4)
        trap = TRAPS.get(moment)
        process = _fork(command, folder, partial(trap.set, countdown) if trap else lambda: None)
        if moment == "time":
            _strike(process, folder, number, delay)
        status = _wait(process)
        if status == 0:
            break
        kills.append(Kill(moment, signal.Signals(number).name, status))
        command = ["resume", _run_id(folder), *[item for item in arguments if item.startswith(ALWAYS)]]
    status = _wait(_fork(command, folder, lambda: None)) if len(kills) == num_kills else 0
    if status:
        raise RuntimeError(f"the last attempt ended with status {status}: {_log(folder)}")
    return _run_id(folder), kills


ALWAYS = ("--allow_modules", "--tracking.uri")
"""Options that every command of the run needs."""


def _fork(command: list[str], folder: Path, prepare: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.chdir(folder)
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        prepare()
        status = run_command(command)
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(status)


@dataclass(frozen=True)
class Trap:
    """A function in which a process ends itself."""

    owner: Any
    name: str
    is_meant: Callable[..., bool]
    """Whether a call with these arguments counts."""
    end: Callable[..., None]
    is_after: bool = False

    def set(self, countdown: int) -> None:
        """Make this process end itself in the `countdown`th call that counts."""
        original, calls = getattr(self.owner, self.name), itertools.count(1)

        def trapped(*args: Any, **kwargs: Any) -> Any:
            is_last = self.is_meant(*args) and next(calls) >= countdown
            if is_last and not self.is_after:
                self.end(*args)
            result = original(*args, **kwargs)
            if is_last:
                self.end(*args)
            return result

        setattr(self.owner, self.name, trapped)


def _write_and_die(stream: Any) -> None:
    stream.write(b"half a checkpoint")
    stream.flush()
    _die()


def _half_line(descriptor: int, line: bytes) -> None:
    os.pwrite(descriptor, line[: len(line) // 2], os.fstat(descriptor).st_size)
    _die()


def _is_checkpoint(descriptor: int) -> bool:
    return _is_unfinished(Path(os.readlink(f"/proc/self/fd/{descriptor}")))


def _is_unfinished(file: Path) -> bool:
    return file.name.endswith(f".ckpt{UNFINISHED}")  # other files of a run are written in this way too


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(SECONDS_OF_AN_ATTEMPT)


TRAPS = {
    "half a checkpoint": Trap(torch, "save", lambda *_: True, lambda _, stream: _write_and_die(stream)),
    "before the sync": Trap(os, "fsync", lambda descriptor: _is_checkpoint(descriptor), lambda *_: _die()),
    "before the renaming": Trap(Path, "replace", lambda file, _: _is_unfinished(file), lambda *_: _die()),
    "after the renaming": Trap(Path, "replace", lambda file, _: _is_unfinished(file), lambda *_: _die(), is_after=True),
    "half a line": Trap(os, "write", lambda _, data: b'"step"' in data, lambda to, data: _half_line(to, data)),
}


MOMENTS = ("time", *TRAPS)


def _strike(process: int, folder: Path, number: int, delay: float) -> None:
    """Send the signal some time after the run has its configuration: before that it cannot be resumed."""

    def strike() -> None:
        deadline = time.monotonic() + SECONDS_OF_AN_ATTEMPT
        while not list(folder.glob("mlruns/*/*/artifacts/config.yaml")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.kill(process, number)

    threading.Thread(target=strike, daemon=True).start()


def _wait(process: int) -> int:
    deadline = time.monotonic() + SECONDS_OF_AN_ATTEMPT
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise RuntimeError(f"a process ran for more than {SECONDS_OF_AN_ATTEMPT} s")


def _run_id(folder: Path) -> str:
    (config,) = folder.glob("mlruns/*/*/artifacts/config.yaml")
    return config.parent.parent.name


def _log(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]


def differences(one: Path, other: Path) -> list[str]:
    """List the differences between the undisturbed run in `one` and the run in `other`."""
    from mlflow import MlflowClient

    found: list[str] = []
    stored = []
    for folder in (one, other):
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        runs = client.search_runs([own.experiment_id for own in client.search_experiments()])
        if len(runs) != 1 or runs[0].info.status != "FINISHED":
            found.append(f"{folder.name} holds {[(run.info.run_id, run.info.status) for run in runs]}")
            continue
        names = [name for name in runs[0].data.metrics if not name.startswith("system/")]
        histories = {name: client.get_metric_history(runs[0].info.run_id, name) for name in names}
        for name, points in histories.items():
            steps = [point.step for point in points]
            if steps != sorted(set(steps)):
                found.append(f"{folder.name}: steps of {name} are {steps}")
        timeless = {name: own for name, own in histories.items() if not name.startswith("throughput/")}
        values = {name: [(point.step, point.value) for point in points] for name, points in timeless.items()}
        counts = {name: [point.step for point in points] for name, points in histories.items()}
        stored.append(
            {"metrics": values, "steps": counts, **_files(Path(runs[0].info.artifact_uri.removeprefix("file://")))}
        )
    if len(stored) == 2:
        names = sorted(stored[0].keys() | stored[1].keys())
        found += [f"{name} differ" for name in names if stored[0].get(name) != stored[1].get(name)]
    return found


def _files(artifacts: Path) -> dict[str, Any]:
    import pyarrow.parquet

    files: dict[str, Any] = {
        "predictions": pyarrow.parquet.read_table(artifacts / "predictions" / "test.parquet").to_pydict()
    }
    # What is left for resuming, `last.ckpt`, is deleted at the end of a run that does not ask to keep it.
    for checkpoint in sorted((artifacts / "checkpoints").glob("*.ckpt")):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        files[f"{checkpoint.stem} weights"] = {key: value.numpy().tobytes() for key, value in weights.items()}
    files["left over"] = sorted(file.name for file in artifacts.rglob(f"*{UNFINISHED}"))
    return files


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(arguments.folder or name)
        alone, disturbed = folder / "alone", folder / "disturbed"
        for each in (alone, disturbed):
            each.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        settings = arguments.settings or SETTINGS
        train_undisturbed([*settings, f"--tracking.uri=sqlite:///{alone}/mlflow.db"], alone)
        uri = f"--tracking.uri=sqlite:///{disturbed}/mlflow.db"
        _, kills = train_disturbed([*settings, uri], disturbed, arguments.kills, arguments.seed)
        _report(kills, differences(alone, disturbed))


def _report(kills: list[Kill], found: list[str]) -> None:
    print(f"{len(kills)} interruptions, each resumed\n")
    for (moment, number), count in sorted(Counter((kill.moment, kill.signal) for kill in kills).items()):
        print(f"  {moment:22} {number:8} {count:4}")
    print(f"\ncompared with the undisturbed run: {'; '.join(found) or 'equal in every metric, weight and prediction'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="folder in which both runs are kept; default: they are removed")
    parser.add_argument("settings", nargs="*", help="settings of the run, after --")
    return parser.parse_args()


if __name__ == "__main__":
    main()
