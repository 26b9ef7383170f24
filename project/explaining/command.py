"""`lightrail explain`: what a prediction was made of, as an HTML page and as JSON."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.explaining.explanation import (
    Attribution,
    ExplainsBatches,
    ExplainsTexts,
    Explanation,
    Question,
)
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.lightning_modules.transfer.exported import restore_task
from lightrail.project.basics.durable import write_whole
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.hardware import set_threads, usable_accelerator
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.basics.reading import user_path
from lightrail.project.basics.tokens.tokenizing import whole_characters
from lightrail.project.configuration import Configuration, parse
from lightrail.project.configuration.classes import AllowedClasses
from lightrail.project.figures.explained import explained_row
from lightrail.project.figures.explanations import ExplainedText, as_page
from lightrail.project.running.build import build
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import check_folder

log = logging.getLogger(__name__)

_FIX = "Name a run that reads texts (lightrail list runs)."


def run(arguments: list[str]) -> int:
    """Explain predictions for texts, and write them. Raises: ConfigError, DataError."""
    parser = OptionParser("explain")
    parser.add_argument("model", nargs="*")
    for name in ("label", "target", "device", "allow_modules"):
        parser.add_argument(f"--{name}")
    for name in ("text", "text_pair"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--output", default="explain.html")
    options = parser.read(arguments)
    if len(options.model) != 1:
        raise ConfigError(
            f"lightrail explain takes one run or checkpoint, found {len(options.model)}: lightrail explain RUN_ID "
            "--text TEXT."
        )
    texts = _texts(options.text, options.text_pair)
    output = _checked_output(options.output)
    device = _device(options.device)
    AllowedClasses((options.allow_modules or "").split(","))
    set_threads()
    path = find_checkpoint(options.model[0], TrackingConfig(uri=options.uri))
    question = Question(label=options.label, target=options.target and whole_characters(options.target))
    explained = list(explain(path, texts, question, device, options.allow_modules))
    name = options.model[0]
    lead = "Numbers with all digits are in the JSON file beside this page."
    write_whole(output, as_page(name, explained, lead))
    write_whole(output.with_name(f"{output.name}.json"), as_json(name, str(path), explained))
    log.info("wrote %s and %s.json, %d texts", output, output.name, len(explained))
    return 0


def explain(
    path: Path, texts: Sequence[Sequence[str]], question: Question, device: torch.device, modules: str | None = None
) -> Iterator[ExplainedText]:
    """Yield the explanations of each text, or pair of texts, by the model of a checkpoint.

    Raises: ConfigError when the model explains nothing, or the question does not apply to it.
    """
    checkpoint = read_checkpoint(path)
    task = restore_task(checkpoint, str(path))
    if isinstance(task, ExplainsTexts):
        _check_number(texts, ["text"])
        for (text,) in texts:
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
    texts: Sequence[Sequence[str]],
    question: Question,
    device: torch.device,
    modules: str | None,
) -> Iterator[ExplainedText]:
    """Encode texts with the data of the run, which reads them from a file."""
    given = [[" ".join(part.splitlines()) for part in parts] for parts in texts]
    with tempfile.TemporaryDirectory() as folder:
        lines, table = Path(folder) / "texts.txt", Path(folder) / "texts.jsonl"
        lines.write_text("".join(f"{parts[0]}\n" for parts in given), encoding="utf-8")
        configuration = _reading(lines, saved, modules)
        reader: Any = configuration.data()
        columns = reader.columns("predict")
        names = [*(columns.values() if isinstance(columns, Mapping) else columns)]
        _check_number(texts, names)
        if len(names) > 1:
            records = (json.dumps(dict(zip(names, parts, strict=True))) for parts in given)
            table.write_text("".join(f"{record}\n" for record in records), encoding="utf-8")
            configuration = _reading(table, saved, modules)
        experiment = build(configuration, "predict", path)
    data, task = experiment.data, experiment.model.to(device)
    rows = data.dataset("predict")
    for number in range(len(rows)):
        with evaluating(task):
            own = explained_row(data, task, rows, number, question)
        # A text that is cut into several rows is named by what each row has of it.
        yield replace(own, text=" ||| ".join(given[number])) if len(rows) == len(given) else own


def _reading(file: Path, saved: dict[str, Any], modules: str | None) -> Configuration:
    """Return the configuration of a run, with this file in place of its data."""
    own = {name: value for name, value in saved["data"]["init_args"].items() if name != "reading"}
    saved = {**saved, "data": {**saved["data"], "init_args": {**own, "path": str(file)}}}
    allowed = [f"--allow_modules={modules}"] if modules else []
    return parse(["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", *allowed], saved=saved)


def _check_number(texts: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Refuse other numbers of texts than a model reads at once, as the columns of these names. Raises: ConfigError."""
    if len(texts[0]) == len(names):
        return
    if len(names) > 2:
        raise ConfigError(f"the model reads {len(names)} texts at once ({', '.join(names)}), and explain gives it two.")
    if len(names) == 2:
        raise ConfigError(
            f"the model reads two texts at once ({', '.join(names)}), and explain was given one. Add a --text_pair for "
            "each --text."
        )
    raise ConfigError("--text_pair is for models that read two texts at once, and this one reads one. Leave it out.")


def as_json(name: str, path: str, explained: Sequence[ExplainedText]) -> str:
    """Format explanations as JSON: every number of the page, and those that it rounds."""
    texts = [{"text": own.text, "explanations": [_as_dict(each) for each in own.explanations]} for own in explained]
    return json.dumps({"model": name, "checkpoint": path, "texts": texts}, ensure_ascii=False, allow_nan=False) + "\n"


def _as_dict(explanation: Explanation) -> dict[str, Any]:
    values = {"kind": explanation.kind, **asdict(explanation)}
    if isinstance(explanation, Attribution):
        values |= {"error": explanation.error, "is_reliable": explanation.is_reliable}
    return values


def _texts(texts: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    """Return the texts that were given, each with its other one where these are pairs. Raises: ConfigError."""
    if not texts:
        raise ConfigError("lightrail explain needs a text, and found none: give --text TEXT.")
    if others and len(others) != len(texts):
        raise ConfigError(
            f"--text was given {len(texts)} times, and --text_pair {len(others)} times. Give one --text_pair for each "
            "--text."
        )
    for name, own in (("text", texts), ("text_pair", others)):
        for number, text in enumerate(own, 1):
            if not text.strip():
                raise ConfigError(f"--{name} number {number} is blank: {shown(text)}. Give it at least one character.")
    return [
        [*map(whole_characters, parts)]
        for parts in (zip(texts, others, strict=True) if others else zip(texts, strict=True))
    ]


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
