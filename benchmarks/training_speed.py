"""Training speed of lightrail and of the Hugging Face Trainer: the same network, texts, batch size and optimizer.

Both train the same BERT in one process, alternately, several times; the result is the ratio of the medians. lightrail
runs as for users, tracked in MLflow. Run: make bench (about five minutes on two cores).
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from lightrail.datamodules.reading import read_rows
from lightrail.project.basics.hardware import set_threads
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from lightrail.project.running.fitting import begin

MAX_LENGTH = 128
BATCH_SIZE = 32


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row.values for row in islice(mixed_reviews(), arguments.examples)]
        write_data(rows, folder)
        write_network(rows, folder / "bert")
        programs: dict[str, Callable[[], float]] = {
            "lightrail": lambda: _lightrail(folder),
            "HF Trainer, defaults": lambda: _hugging_face(rows, folder, "random"),
            "HF Trainer, group_by_length": lambda: _hugging_face(rows, folder, "group_by_length"),
        }
        for run in programs.values():  # warm-up, not timed
            run()
        rounds = [{program: run() for program, run in programs.items()} for _ in range(arguments.rounds)]
    seconds = {program: [each[program] for each in rounds] for program in programs}
    _print_table(seconds, len(rows), arguments.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def mixed_reviews() -> Iterator[Any]:
    """Yield positive and negative reviews alternately; the corpus has all positive ones first."""
    rows = list(read_rows("embedded:reviews", columns=["text", "label"]))
    half = len(rows) // 2
    for pair in zip(rows[:half], rows[half:], strict=False):
        yield from pair


def write_data(rows: list[dict[str, Any]], folder: Path) -> None:
    for name, part in (("train", rows), ("rest", rows[:20])):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_network(rows: list[dict[str, Any]], folder: Path) -> None:
    """Save a small BERT with random weights, and a tokenizer of characters, in the format of transformers."""
    characters = sorted({character for row in rows for character in row["text"]})
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *characters])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    BertForSequenceClassification(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)


def _lightrail(folder: Path) -> float:
    """Return the seconds of one epoch."""
    settings = {
        "model": "TextClassifier",
        "model.encoder": "PretrainedConfig",
        "model.encoder.checkpoint": folder / "bert",
        "data": "TextClassificationData",
        "data.path": folder / "train.jsonl",
        "data.validation_path": folder / "rest.jsonl",
        "data.test_path": folder / "rest.jsonl",
        "data.tokenizer": folder / "bert",
        "data.max_length": MAX_LENGTH,
        "data.batch.size": BATCH_SIZE,
        "trainer.max_epochs": 1,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.precision": "32-true",
        "trainer.gradient_clip_val": 1.0,
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    experiment = build(parse([f"--{name}={value}" for name, value in settings.items()]), "fit")
    experiment.trainer.callbacks = [  # type: ignore[attr-defined]
        callback
        for callback in experiment.trainer.callbacks  # type: ignore[attr-defined]
        if "Checkpoint" not in type(callback).__name__  # the other program saves none either
    ]
    run = begin(experiment, kind="benchmark")
    with run.status():
        started = time.perf_counter()
        experiment.trainer.fit(experiment.model, datamodule=experiment.data)
        return time.perf_counter() - started


def _hugging_face(rows: list[dict[str, Any]], folder: Path, sampling: str) -> float:
    """Return the seconds of one epoch."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "bert")
    numbers = {"positive": 1, "negative": 0}
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    examples = [{"input_ids": ids, "labels": numbers[row["label"]]} for ids, row in zip(encoded, rows, strict=True)]
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder / "bert"),
        args=TrainingArguments(
            output_dir=str(folder / "hf"),
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=1,
            train_sampling_strategy=sampling,
            optim="adamw_torch_fused",
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def _print_table(seconds: dict[str, list[float]], num_examples: int, rounds: int) -> None:
    medians = {program: statistics.median(own) for program, own in seconds.items()}
    print(f"\n{num_examples} texts, one epoch, median of {rounds} rounds, {torch.get_num_threads()} threads\n")
    print(f"{'program':28} {'seconds':>8} {'texts/s':>8} {'time / lightrail':>17}")
    for program, median in medians.items():
        print(f"{program:28} {median:8.2f} {num_examples / median:8.0f} {median / medians['lightrail']:17.2f}")


if __name__ == "__main__":
    main()
