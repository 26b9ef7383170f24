"""What inputs are made from: data, models, runs, exports and a study, made once with lightrail's own commands."""

import contextlib
import gzip
import io
import json
import shutil
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.chaos import TRAPS
from benchmarks.fuzz.sandbox import Limits, Sandbox
from lightrail.project import cli
from tests.support.tasks import causal_lm, entities, image_classification, pinyin, text_classification

SECONDS_OF_A_COMMAND = 300.0
STEPS = [
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false"),
    *("--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null"),
    *("--trainer.log_every_n_steps=1", "--data.batch.max_tokens=null", "--data.batch.size=4"),
    "--tracking.uri=sqlite:///mlflow.db",
]
TASKS = ("text", "entities", "pinyin", "images", "language", "bert", "gpt")
"""Each has a complete configuration `NAME.yaml`."""
KILLED, TESTED, WRITER = "killed", ("text", "again"), "language"
"""Names of runs: one that was killed and never closed, two that are tested, and a language model."""


def make(part: str, folder: Path) -> None:
    """Make a part of the base unless it is there. Raises: RuntimeError when a command fails."""
    if (folder / f"{part}.made").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for prepare in PARTS[part]:
        with Path(folder / "log.txt").open("w"):
            pass
        ended = Sandbox(folder, prepare, Limits(seconds=SECONDS_OF_A_COMMAND, waiting=3000, memory=2**40)).wait()
        if ended.status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the base was not made: {(folder / 'log.txt').read_text()[-3000:]}")
    (folder / f"{part}.made").touch()


def _write_data() -> list[str]:
    places = {name: Path(name) for name in TASKS}
    for place in places.values():
        place.mkdir(exist_ok=True)
    text = text_classification.settings(places["text"])
    given = {
        "text": text,
        "entities": entities.settings(places["entities"]),
        "pinyin": pinyin.settings(places["pinyin"]),
        "images": image_classification.settings(places["images"]),
        "language": causal_lm.settings(places["language"]),
    }
    for name, words in given.items():
        _write_configuration(name, words)
    _write_other_formats([json.loads(line) for line in Path("text/train.jsonl").read_text().splitlines()])
    return ["check", "--config=text.yaml"]


def _write_configuration(name: str, words: list[str]) -> None:
    steps = [word for word in STEPS if name != "images" or "max_tokens" not in word]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = cli.main(["fit", *words, *steps, "--print_config"])
    if status:
        raise RuntimeError(f"{name}: no configuration")
    Path(f"{name}.yaml").write_text(text.getvalue(), "utf-8")


def _write_other_formats(rows: list[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet
    from datasets import Dataset, DatasetDict

    for delimiter, ending in ((",", "csv"), ("\t", "tsv")):
        lines = [
            delimiter.join(["text", "label"]),
            *(delimiter.join([f'"{row["text"]}"', row["label"]]) for row in rows),
        ]
        Path(f"text/train.{ending}").write_text("\n".join(lines) + "\n")
    Path("text/train.json").write_text(json.dumps(rows))
    Path("text/labelled.txt").write_text("".join(f"__label__{row['label']} {row['text']}\n" for row in rows))
    Path("text/train.jsonl.gz").write_bytes(gzip.compress(Path("text/train.jsonl").read_bytes()))
    Path("text/train.csv.gz").write_bytes(gzip.compress(Path("text/train.csv").read_bytes()))
    pa.parquet.write_table(pa.Table.from_pylist(rows), "text/train.parquet")
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk("text/saved")
    sentences = [
        [(word, "B-PER" if word == "anna" else "O") for word in text.split()] for text in entities.TEXTS["train"]
    ]
    blocks = ["".join(f"{word} {tag}\n" for word, tag in sentence) for sentence in sentences]
    Path("entities/train.conll").write_text("\n".join(blocks))
    _write_images()


def _write_images() -> None:
    import numpy as np
    from PIL import Image

    for number in range(8):
        folder = Path("images/folder", ("up", "down")[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 5), 30 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        np.save(f"images/{number}.npy", pixels)


def _write_models() -> list[str]:
    from tests.support.pretrained import write_tiny_bert

    write_tiny_bert(Path("bert/model"), text_classification.TEXTS["train"])
    causal_lm.write_gpt2(Path("gpt/model"))
    data = [word for word in text_classification.settings(Path("text")) if word.startswith("--data")]
    named = ["--data.tokenizer=bert/model", "--model.encoder=PretrainedConfig", "--model.encoder.checkpoint=bert/model"]
    kept = [word for word in data if "tokenizer" not in word and "min_count" not in word]
    _write_configuration("bert", ["--model=TextClassifier", *kept, *named])
    texts = causal_lm.write_texts(Path("gpt"), causal_lm.TEXTS["train"], "--data.tokenizer=gpt/model")
    decoder = ["--model.decoder=PretrainedDecoderConfig", "--model.decoder.checkpoint=gpt/model"]
    _write_configuration("gpt", [*texts, *decoder])
    return ["check", "--config=bert.yaml"]


def _killed() -> list[str]:
    TRAPS["after the renaming"].set(3)
    more = ["--trainer.max_steps=50", "--tracking.checkpoint.every_steps=2", f"--tracking.run_name={KILLED}"]
    return ["fit", "--config=pinyin.yaml", *more]


def _write_sweep() -> list[str]:
    definition = {
        "base": "text.yaml",
        "metric": "val/accuracy",
        "direction": "maximize",
        "n_trials": 2,
        "storage": "sqlite:///sweeps.db",
        "resources": {"workers": 1, "threads": 1},
        "space": {
            "model.optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "model.encoder.width": {"choices": [8, 16]},
        },
    }
    Path("sweep.yaml").write_text(json.dumps(definition))  # JSON is YAML
    return ["sweep", "--config=sweep.yaml"]


def _copied(name: str, target: str) -> None:
    shutil.copyfile(artifacts(name) / "checkpoints" / "best.ckpt", target)


def _export(name: str, target: str, *more: str) -> Callable[[], list[str]]:
    def words() -> list[str]:
        _copied(name, f"{name}.ckpt")
        return ["export", run_id(name), f"--output={target}", "--tracking.uri=sqlite:///mlflow.db", *more]

    return words


def _fit(task: str, name: str) -> Callable[[], list[str]]:
    return lambda: ["fit", f"--config={task}.yaml", f"--tracking.run_name={name}"]


PARTS: dict[str, tuple[Callable[[], list[str]], ...]] = {
    "data": (_write_data,),
    "models": (_write_models,),
    "runs": (*(_fit("text", name) for name in TESTED), _fit(WRITER, WRITER), _killed),
    "exports": (_export("text", "exported"), _export(WRITER, "exported_writer", "--format=hf")),
    "study": (_write_sweep,),
}
"""Each part is made by commands, after those before it."""
PLACES = {
    "data": ("text", "entities", "pinyin", "images", "language", "*.yaml", "cache"),
    "models": ("bert", "gpt"),
    "runs": ("mlflow.db", "mlruns"),
    "exports": ("exported*", "*.ckpt"),
    "study": ("sweep.yaml", "sweeps.db", "mlflow.db"),
}
"""Files and folders of each part."""


def run_id(name: str) -> str:
    """Return the id of a run in the store of this folder."""
    with contextlib.closing(sqlite3.connect("mlflow.db")) as database:
        (found,) = database.execute("SELECT run_uuid FROM runs WHERE name = ?", (name,)).fetchone()
    return str(found)


def artifacts(name: str) -> Path:
    """Return the folder of a run's files, relative to this folder."""
    (found,) = Path("mlruns").glob(f"*/{run_id(name)}/artifacts")
    return found


def copy(base: Path, folder: Path, parts: Sequence[str]) -> None:
    """Copy parts of the base to the folder of an input, whose store names the files in that folder."""
    folder.mkdir(parents=True)
    for place in sorted({place for part in parts for pattern in PLACES[part] for place in base.glob(pattern)}):
        if place.is_dir():
            shutil.copytree(place, folder / place.name, symlinks=True)
        else:
            shutil.copyfile(place, folder / place.name)
    if (folder / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
            for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(base), str(folder)))
