"""`lightrail explain`: what a prediction was made of, as an HTML page and as JSON."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.explaining.explanation import (
    Attribution,
    ExplainsBatches,
    ExplainsTexts,
    Explanation,
    Question,
)
from lightrail.lightning_modules.exported import restore_task
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.project.basics.durable import write_whole
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.hardware import set_threads, usable_accelerator
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.reading import user_path
from lightrail.project.basics.tokens.showing import shown_tokens
from lightrail.project.basics.tokens.tokenizing import whole_characters
from lightrail.project.configuration import parse
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.explaining.page import ExplainedText, as_page
from lightrail.project.running.build import build
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import check_folder

log = logging.getLogger(__name__)

_FIX = "Name a run that classifies texts, finds entities, translates or continues texts (lightrail list runs)."


def run(arguments: list[str]) -> int:
    """Explain predictions for texts, and write them. Raises: ConfigError, DataError."""
    parser = OptionParser("explain")
    parser.add_argument("model", nargs="*")
    for name in ("label", "target", "device", "allow_modules"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--output", default="explain.html")
    options = parser.read(arguments)
    if len(options.model) != 1:
        raise ConfigError(
            f"lightrail explain takes one run or checkpoint, found {len(options.model)}: lightrail explain RUN_ID "
            "--text TEXT."
        )
    texts = [whole_characters(text) for text in options.text]
    _check_texts(texts)
    output = _checked_output(options.output)
    device = _device(options.device)
    AllowedClasses((options.allow_modules or "").split(","))
    set_threads()
    path = find_checkpoint(options.model[0], TrackingConfig(uri=options.uri))
    question = Question(label=options.label, target=options.target and whole_characters(options.target))
    explained = list(explain(path, texts, question, device, options.allow_modules))
    name = options.model[0]
    write_whole(output, as_page(name, explained))
    write_whole(output.with_name(f"{output.name}.json"), as_json(name, str(path), explained))
    log.info("wrote %s and %s.json, %d texts", output, output.name, len(explained))
    return 0


def explain(
    path: Path, texts: Sequence[str], question: Question, device: torch.device, modules: str | None = None
) -> Iterator[ExplainedText]:
    """Yield the explanations of each text by the model of a checkpoint.

    Raises: ConfigError when the model explains nothing, or the question does not apply to it.
    """
    if path.is_dir():
        raise ConfigError(f"{shown(str(path), 200)} is a folder without a checkpoint, as an export. {_FIX}")
    checkpoint = read_checkpoint(path)
    task = restore_task(checkpoint, str(path))
    if isinstance(task, ExplainsTexts):
        for text in texts:
            with evaluating(task):
                yield ExplainedText(text, list(task.to(device).explain_text(text, question)))
    elif isinstance(task, ExplainsBatches):
        saved = stored_configuration(checkpoint, str(path))
        yield from _of_batches(path, saved, texts, question, device, modules)
    else:
        raise ConfigError(f"{shown(str(path), 200)} is a {type(task).__name__}, which explains no text. {_FIX}")


def _of_batches(
    path: Path,
    saved: dict[str, Any],
    texts: Sequence[str],
    question: Question,
    device: torch.device,
    modules: str | None,
) -> Iterator[ExplainedText]:
    """Encode texts with the data of the run, which reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        file.write_text("".join(f"{' '.join(text.splitlines())}\n" for text in texts), encoding="utf-8")
        own = {name: value for name, value in saved["data"]["init_args"].items() if name != "reading"}
        saved = {**saved, "data": {**saved["data"], "init_args": {**own, "path": str(file)}}}
        allowed = [f"--allow_modules={modules}"] if modules else []
        settings = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", *allowed]
        configuration = parse(settings, saved=saved)
        reader: Any = configuration.data()
        if len(columns := reader.columns("predict")) > 1:
            raise ConfigError(
                f"the model reads {len(columns)} texts at once ({', '.join(columns)}), and explain gives it one. {_FIX}"
            )
        experiment = build(configuration, "predict", path)
    data, task = experiment.data, experiment.model.to(device)
    assert isinstance(task, ExplainsBatches)
    names = _token_names(data)
    rows: Any = data.dataset("predict")
    for number in range(len(rows)):
        batch = data.collate([{**rows.row(number), "id": number, "draw_seed": (number,)}])
        batch = {name: own.to(device) if isinstance(own, Tensor) else own for name, own in batch.items()}
        (text,) = batch["text"]
        tokens = shown_tokens(batch["input_ids"][batch["attention_mask"]].tolist(), names, text)
        with evaluating(task):
            yield ExplainedText(text, list(task.explain_batch(batch, tokens, question)))


def _token_names(data: DataModule) -> dict[int, str]:
    """Return the name of each token id: the tokenizer's own, or that of the vocabulary that was learned."""
    ids: Mapping[str, int] = data.token_ids() or {}
    learned = enumerate(data.facts().get("vocabulary", ()), start=FIRST_TOKEN)
    return {number: name for name, number in ids.items()} or dict(learned)


def as_json(name: str, path: str, explained: Sequence[ExplainedText]) -> str:
    """Format explanations as JSON: every number of the page, and those that it rounds."""
    texts = [{"text": own.text, "explanations": [_as_dict(each) for each in own.explanations]} for own in explained]
    return json.dumps({"model": name, "checkpoint": path, "texts": texts}, ensure_ascii=False, allow_nan=False) + "\n"


def _as_dict(explanation: Explanation) -> dict[str, Any]:
    values = {"kind": explanation.kind, **asdict(explanation)}
    if isinstance(explanation, Attribution):
        values |= {"error": explanation.error, "is_reliable": explanation.is_reliable}
    return values


def _check_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise ConfigError("lightrail explain needs a text, and found none: give --text TEXT.")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise ConfigError(f"--text number {number} is blank: {shown(text)}. Give it at least one character.")


def _checked_output(name: str) -> Path:
    output = user_path(name)
    if output.is_dir() or not output.name:
        raise ConfigError(f"--output {shown(name, 200)} is a folder. Name a file in it.")
    check_folder(output.absolute().parent, "--output")
    return output


def _device(name: str | None) -> torch.device:
    if name not in (None, "cpu", "gpu"):
        raise ConfigError(f"--device is {shown(name)}. Give cpu or gpu, or leave it out.")
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--device is gpu, and PyTorch finds no GPU here. Give cpu, or leave it out.")
    return torch.device("cuda" if usable_accelerator(name or "auto") == "gpu" else "cpu")
