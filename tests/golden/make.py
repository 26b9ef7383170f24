"""Writes `stored.tar.xz`: what the code of one commit stores, so that later code can be seen to read it.

    python -m tests.golden.make

Run it on purpose only, in a clean working tree: what it replaces is the proof that older runs can still be read. Last
run at commit 3b293b31c2f30b58d6550b3561eaf0f669e22fb8.
"""

import json
import lzma
import os
import shutil
import signal
import socket
import sqlite3
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing, suppress
from getpass import getuser
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightrail.project.configuration import parse
from lightrail.project.running.fitting import fit
from lightrail.project.tracking.processes import Terminated, this_machine
from tests.golden.unpacking import ARCHIVE, DATABASES, MADE_IN, replace_texts
from tests.support.running import FOUR_STEPS, QUIET, Outcome, lightrail
from tests.support.tasks import causal_lm, entities, image_classification, pinyin, text_classification

FOLDER = Path(MADE_IN)
TASKS: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "texts": (text_classification.settings, ["--seeds=2"]),
    "images": (image_classification.settings, []),
    "entities": (entities.settings, ["--model.encoder.width=16"]),
    "pinyin": (pinyin.settings, []),
    "language": (causal_lm.settings, ["--model.decoder.width=16"]),
}
"""The tiny settings of each task, as its contract has them, and what is added here."""
TWELVE_STEPS = [*FOUR_STEPS, "--trainer.max_steps=12", "--trainer.val_check_interval=4", "--model.optim.lr=0.01"]
SWEEP = {
    "base": "base.yaml",
    "metric": "val/character_accuracy",
    "direction": "maximize",
    "n_trials": 3,
    "resources": {"workers": 1, "threads": 1},
    "space": {
        "model.optim.lr": {"low": 1e-3, "high": 1e-1, "log": True},
        "network": {
            "branches": {
                "transformer": {"model.encoder": "TransformerConfig", "model.encoder.num_heads": {"choices": [1, 2]}},
                "lstm": {"model.encoder": "LstmConfig"},
            }
        },
    },
}
HARDWARE = {
    "platform": "Linux",
    "cpu": "a processor",
    "physical_cores": 1,
    "usable_cores": 1,
    "threads": 1,
    "OMP_NUM_THREADS": "1",
    "instructions": "AVX2",
    "arithmetic": "MKL oneDNN",
    "memory_gib": 8.0,
    "gpus": [],
    "visible_gpus": None,
}
"""In the place of this machine's."""
SOURCES = "/src/lightrail"
"""In the place of the folder that this repository lies in."""
LEFT_OUT = ("**/figures", "**/report.html", "**/*.lock", "**/*.unfinished*", "state")
"""Pictures, which are large, and what nobody reads again."""


class StopAt(Callback):
    """Asks for the end of training in the middle of a step, as a supervisor does; no configuration names it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            signal.raise_signal(signal.SIGTERM)


def main() -> None:
    root = str(Path.cwd())
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    os.chdir(FOLDER)
    os.environ |= {"LIGHTRAIL_CACHE": str(FOLDER / "cache"), "XDG_STATE_HOME": str(FOLDER / "state")}
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    for name, (_, more) in TASKS.items():
        succeed("fit", *settings(name), *more, f"--tracking.run_name={name}")
    begin_and_stop()
    succeed("export", run_id("entities"), "--format=safetensors", "--output=exported")
    write_generated()
    write_sweep()
    succeed("sweep", "--config=tiny.yaml")
    leave_out()
    clean(root)
    pack()
    sys.stdout.write(f"{ARCHIVE} has {ARCHIVE.stat().st_size} bytes; name the commit in the text above `make.py`\n")


def settings(name: str) -> list[str]:
    """Write the data of a task, and give arguments whose paths begin at the working folder."""
    folder = Path("data") / name
    folder.mkdir(parents=True, exist_ok=True)
    own_settings, more = TASKS[name]
    own = [argument for argument in more if not argument.startswith("--seeds")]
    return [*own_settings(folder), *own, *TWELVE_STEPS, *QUIET]


def succeed(*arguments: str) -> Outcome:
    outcome = lightrail(*arguments)
    if outcome.status:
        raise SystemExit(f"{arguments} ended with {outcome.status}: {outcome.err}")
    return outcome


def begin_and_stop() -> None:
    """Leave a run in the middle of an epoch, between two validations, with its `last.ckpt`."""
    with suppress(Terminated):
        fit(parse([*settings("pinyin"), "--tracking.run_name=stopped"]), callbacks=[StopAt(7)])


def run_id(name: str) -> str:
    with closing(sqlite3.connect("mlflow.db")) as database:
        ((found,),) = database.execute("SELECT run_uuid FROM runs WHERE name = ?", (name,))
    return str(found)


def write_generated() -> None:
    arguments = ["--prompt=cab", "--temperature=0", "--max_tokens=5"]
    Path("generated.txt").write_text(succeed("generate", run_id("language"), *arguments).out, encoding="utf-8")


def write_sweep() -> None:
    Path("base.yaml").write_text(parse(settings("pinyin")).dump(), encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False), encoding="utf-8")


def leave_out() -> None:
    """Remove what is large or of no use, such as the states of the optimizers of finished runs."""
    for pattern in LEFT_OUT:
        for place in list(FOLDER.glob(pattern)):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    with closing(sqlite3.connect("mlflow.db")) as database:
        finished = database.execute("SELECT run_uuid FROM runs WHERE status = 'FINISHED'").fetchall()
    for (run,) in finished:
        for file in FOLDER.glob(f"mlruns/*/{run}/artifacts/checkpoints/last.ckpt"):
            file.unlink()


def clean(root: str) -> None:
    """Replace what belongs to this machine: folders, names and hardware."""
    for file in FOLDER.glob("**/environment/hardware.json"):
        file.write_text(json.dumps(HARDWARE, indent=1) + "\n", encoding="utf-8")
    for file in FOLDER.glob("**/environment/code.json"):
        file.write_text(file.read_text("utf-8").replace(root, SOURCES), encoding="utf-8")
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute("UPDATE tags SET value = 'somebody' WHERE key = 'mlflow.user'")
        database.execute("UPDATE runs SET user_id = 'somebody'")
    for name in DATABASES:
        replace_texts(FOLDER / name, {root: SOURCES, this_machine(): "golden/00000000"})
        with closing(sqlite3.connect(name)) as database:
            database.execute("VACUUM")  # else the old texts stay in free pages
    check_is_clean([root, f"{socket.gethostname()}/", str(Path.home()) + "/", f"/home/{getuser()}"])


def check_is_clean(words: list[str]) -> None:
    for file in FOLDER.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for word in words:
            if word.encode() in content:
                raise SystemExit(f"{file} holds {word!r}, which belongs to this machine")


def pack() -> None:
    """Pack all files alike, whoever made them and when."""
    with (
        lzma.open(ARCHIVE, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for file in sorted(FOLDER.rglob("*")):
            entry = archive.gettarinfo(file, str(file.relative_to(FOLDER)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            if file.is_file():
                with file.open("rb") as stream:
                    archive.addfile(entry, stream)
            else:
                archive.addfile(entry)


if __name__ == "__main__":
    main()
