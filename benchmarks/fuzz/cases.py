"""The kinds of inputs: each changes something in a copy of the base, and calls a command that reads it."""

import random
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz import base
from benchmarks.fuzz.damage import files_below
from benchmarks.fuzz.formats import mutate_file
from benchmarks.fuzz.sandbox import LOAD
from benchmarks.fuzz.values import hostile

STORE = "--tracking.uri=sqlite:///mlflow.db"


@dataclass(frozen=True)
class Kind:
    """A kind of inputs."""

    make: Callable[[random.Random], list[str]]
    """Changes files in the working folder, and returns the arguments of a command."""
    parts: tuple[str, ...] = ("data",)
    """The parts of the base that it is made from."""
    weight: int = 1
    """How often it is chosen."""


def _train_or_check(chance: random.Random) -> str:
    return "fit" if chance.random() < 0.08 else "check"


def _configuration(chance: random.Random) -> list[str]:
    task = chance.choice(base.TASKS[:5])
    mutate_file(Path(f"{task}.yaml"), chance)
    return [_train_or_check(chance), f"--config={task}.yaml", STORE]


def _settings(chance: random.Random) -> list[str]:
    """One to three settings on the command line, with values that seldom fit."""
    task = chance.choice(base.TASKS[:5])
    names = list(_setting_names(yaml.safe_load(Path(f"{task}.yaml").read_text("utf-8"))))
    given = [f"--{chance.choice(names)}={_text(hostile(chance))}" for _ in range(chance.choice([1, 1, 2, 3]))]
    return [_train_or_check(chance), f"--config={task}.yaml", STORE, *given]


def _setting_names(values: Any, prefix: str = "") -> Iterator[str]:
    for key, value in values.items() if isinstance(values, dict) else ():
        yield f"{prefix}{key}"
        yield from _setting_names(value, f"{prefix}{key}.")


def _text(value: Any) -> str:
    """Return what a shell can pass on: no null character, no surrogate, not too long for the system."""
    text = value if isinstance(value, str) else str(value)
    return text.replace("\0", "0").encode("utf-8", "replace").decode()[:100_000]


COMMANDS = (
    "list",
    "list runs",
    "sync",
    "check --config=text.yaml --trainer.max_steps=2",
    "fit --config=text.yaml --seeds 2 --help_all",
    "predict --ckpt_path text.ckpt --data.path text/test.jsonl --output out.jsonl",
    "validate --ckpt_path text.ckpt",
    "test --ckpt_path runs:/TEXT --config text.yaml",
    "generate language.ckpt --prompt ab --max_tokens 3 --temperature 0.5 --top_k 2 --num_samples 2 --seed 1",
    "export TEXT --output new --format safetensors",
    "compare TEXT AGAIN --output page.html --resamples 100 --num_examples 2 --metric accuracy",
    "reproduce TEXT --check_only --if_different refuse",
    "resume KILLED --force --trainer.max_steps=4",
    "sweep --config sweep.yaml --status --n_trials 2 --study x --storage sqlite:///sweeps.db",
)


def _arguments(chance: random.Random) -> list[str]:
    words = _named(shlex.split(chance.choice(COMMANDS)))
    for _ in range(chance.choice([1, 1, 2, 3])):
        place = chance.randrange(len(words)) if words else 0
        text = _text(hostile(chance))
        name, equals, _ = words[place].partition("=") if words else ("", "", "")
        changes: list[list[str]] = [[], [text], [*words[place : place + 1]] * 2, [f"{name}{equals or '='}{text}"]]
        changes += [[name[:-1]], [name, text], [f"--{text}"], [name, "--help_all"], [name.upper()]]
        words[place : place + 1] = chance.choice(changes)
    return [*words, STORE] if words and words[0] != "sweep" and chance.random() < 0.8 else words


def _named(words: list[str]) -> list[str]:
    ids = {"TEXT": "text", "AGAIN": "again", "KILLED": base.KILLED}
    for written, name in ids.items():
        words = [word.replace(written, base.run_id(name)) for word in words]
    return words


DATA = {
    "text": (
        *("train.jsonl", "train.csv", "train.tsv", "train.json", "train.parquet", "labelled.txt", "train.jsonl.gz"),
        *("train.csv.gz", "saved"),
    ),
    "entities": ("train.jsonl", "train.conll"),
    "pinyin": ("train.tsv",),
    "images": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "folder", "0.npy"),
    "language": ("train.jsonl",),
}
_OPTIONS = {
    "train.conll": ["--data.reading.file_format=conll"],
    "labelled.txt": ["--data.reading.file_format=labelled"],
    "folder": ["--data.label_names=null"],
}


def _damaged_data(chance: random.Random, task: str) -> tuple[str, list[str]]:
    """Damage a file of data; return the source, and the settings that it needs."""
    name = chance.choice(DATA[task])
    path = Path(task, name)
    mutate_file(chance.choice(files_below(path)), chance)
    source = f"hub:{path}@train" if name == "saved" else str(path).replace("labels-idx1", "images-idx3")
    return source, _OPTIONS.get(name, [])


def _data(chance: random.Random) -> list[str]:
    task = chance.choice(["text", "text", *DATA])
    source, options = _damaged_data(chance, task)
    split = chance.choice(["path", "path", "path", "validation_path", "test_path"])
    return [_train_or_check(chance), f"--config={task}.yaml", f"--data.{split}={source}", *options, STORE]


def _predicted(chance: random.Random) -> list[str]:
    source, options = _damaged_data(chance, "text")
    return ["predict", "--ckpt_path=text.ckpt", f"--data.path={source}", *options, "--output=out.jsonl"]


def _checkpoint(chance: random.Random) -> list[str]:
    name = chance.choice(["text", "text", base.WRITER])
    file = f"{name}.ckpt"
    mutate_file(Path(file), chance)
    commands = [
        ["predict", f"--ckpt_path={file}", "--data.path=text/test.jsonl"],
        ["validate", f"--ckpt_path={file}"],
        ["test", f"--ckpt_path={file}", STORE],
        ["export", file, "--output=new", STORE],
        ["resume", file, STORE],
        ["generate", file, "--prompt=ab", "--max_tokens=3"],
    ]
    return chance.choice(commands)


def _export(chance: random.Random) -> list[str]:
    folder = chance.choice(["exported", "exported_writer"])
    mutate_file(chance.choice(files_below(Path(folder))), chance)
    generate = ["generate", folder, "--prompt=ab", "--max_tokens=3"]
    predict = ["predict", folder, "--data.path=text/test.jsonl"]
    return chance.choice([[LOAD, folder], generate, predict]) if folder == "exported" else generate


def _pretrained(chance: random.Random) -> list[str]:
    task = chance.choice(["bert", "gpt"])
    mutate_file(chance.choice(files_below(Path(task, "model"))), chance)
    return [_train_or_check(chance), f"--config={task}.yaml", STORE]


def _cache(chance: random.Random) -> list[str]:
    for folder in sorted(path for path in Path("cache").rglob("*") if path.is_dir()):
        files = [file for file in sorted(folder.iterdir()) if file.is_file()]
        if files and chance.random() < 0.7:
            mutate_file(chance.choice(files), chance)
    return [_train_or_check(chance), f"--config={chance.choice(['text', base.WRITER, 'pinyin'])}.yaml", STORE]


def _on_runs(chance: random.Random) -> list[str]:
    text, again, killed, writer = (base.run_id(name) for name in (*base.TESTED, base.KILLED, base.WRITER))
    commands = [
        ["list", "runs"],
        ["sync"],
        ["resume", killed, "--trainer.max_steps=6"],
        ["compare", text, again, "--resamples=100"],
        ["predict", f"--ckpt_path=runs:/{text}", "--data.path=text/test.jsonl"],
        ["test", f"--ckpt_path=runs:/{text}"],
        ["export", text, "--output=new"],
        ["generate", writer, "--prompt=ab", "--max_tokens=3"],
        ["reproduce", text, "--check_only"],
    ]
    return [*chance.choice(commands), STORE]


def _journal(chance: random.Random) -> list[str]:
    words = _on_runs(random.Random(chance.random()))
    beside = [file for name in (base.KILLED, base.TESTED[0]) for file in base.artifacts(name).parent.iterdir()]
    mutate_file(chance.choice(sorted(file for file in beside if file.is_file())), chance)
    return words


def _run_folder(chance: random.Random) -> list[str]:
    words = _on_runs(chance)
    known = [name for name in (*base.TESTED, base.KILLED, base.WRITER) if base.run_id(name) in " ".join(words)]
    files = files_below(base.artifacts(chance.choice(known or [base.KILLED])))
    for _ in range(chance.choice([1, 2, 5])):
        file = chance.choice(files)
        if file.is_file():
            mutate_file(file, chance)
    return words


def _store(chance: random.Random) -> list[str]:
    words = [_train_or_check(chance), "--config=text.yaml", STORE] if chance.random() < 0.1 else _on_runs(chance)
    mutate_file(Path("mlflow.db"), chance)
    return words


def _study(chance: random.Random) -> list[str]:
    mutate_file(Path("sweeps.db"), chance)
    return ["sweep", "--config=sweep.yaml", "--status"]


def _sweep(chance: random.Random) -> list[str]:
    mutate_file(Path(chance.choice(["sweep.yaml", "sweep.yaml", "sweep.yaml", "text.yaml"])), chance)
    return ["sweep", "--config=sweep.yaml", "--status"]


_RUNS = ("data", "runs", "exports")
KINDS: dict[str, Kind] = {
    "configuration": Kind(_configuration, weight=6),
    "settings": Kind(_settings, weight=5),
    "arguments": Kind(_arguments, (*_RUNS, "study"), weight=3),
    "data": Kind(_data, weight=8),
    "predicted": Kind(_predicted, _RUNS, weight=2),
    "checkpoint": Kind(_checkpoint, _RUNS, weight=3),
    "export": Kind(_export, _RUNS, weight=2),
    "pretrained": Kind(_pretrained, ("data", "models"), weight=4),
    "cache": Kind(_cache, _RUNS, weight=2),
    "journal": Kind(_journal, _RUNS, weight=2),
    "run folder": Kind(_run_folder, _RUNS, weight=3),
    "store": Kind(_store, _RUNS, weight=2),
    "study": Kind(_study, ("data", "study"), weight=1),
    "sweep": Kind(_sweep, ("data", "study"), weight=1),
}
