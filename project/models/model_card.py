"""The README.md of an exported model: task, metrics, origin, and the code that loads it."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightrail.lightning_modules.checkpoint import stored_configuration
from lightrail.lightning_modules.networks.decoders.generation import TransformersTask
from lightrail.project.basics.tables import literal
from lightrail.project.models.stored_model import StoredModel

LOAD_TRANSFORMERS = """\
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
LOAD_TASK = """\
from lightrail.lightning_modules.exported import load_exported

model = load_exported("{folder}")"""
HEADER = """\
---
library_name: transformers
pipeline_tag: {tag}
---

"""


def model_card(model: StoredModel, folder: str, converted: TransformersTask | None) -> str:
    """Write the card of a model.

    Args:
        folder: name of the folder of the card.
        converted: the task, when the folder holds a transformers model.
    """
    task = model.checkpoint["task"].rpartition(".")[2]
    header, code = "", LOAD_TASK.format(folder=folder)
    if converted is not None:
        header = HEADER.format(tag=converted.pipeline_tag)
        code = LOAD_TRANSFORMERS.format(folder=folder, loader=converted.transformers_class)
    title = literal(f"{task} {model.run_name}")
    lines = [f"# {title}", "", "```python", code, "```", *_metrics(model), "", *_origin(model)]
    return header + "\n".join([*lines, ""])


def _metrics(model: StoredModel) -> Iterator[str]:
    if model.metrics:
        yield from ("", "| metric | value |", "|---|---|")
        yield from (f"| {literal(name)} | {value:.6g} |" for name, value in sorted(model.metrics.items()))


def _origin(model: StoredModel) -> Iterator[str]:
    configuration = stored_configuration(model.checkpoint, model.name)
    base = _setting(configuration["model"], "decoder", "encoder")
    if base.get("checkpoint"):
        yield f"- fine-tuned from {_public(base['checkpoint'])}"
    digest = model.tags.get("lightrail.data_digest")
    path = _public(configuration["data"]["init_args"].get("path"))
    yield f"- data: {path}{f', digest {literal(digest)}' if digest else ''}"
    if model.run_id:
        revision = model.tags.get("lightrail.git_sha")
        yield f"- run {literal(model.run_id)}{f', code at {literal(revision)}' if revision else ''}"
    yield f"- written by lightrail {importlib.metadata.version('lightrail')}, seed {configuration['seed_everything']}"


def _setting(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the arguments of the first network that the section contains."""
    given = (section["init_args"].get(name) for name in names)
    return next((dict(network.get("init_args") or {}) for network in given if isinstance(network, dict)), {})


def _public(source: object) -> str:
    """Return a hub name or `embedded:NAME` unchanged, and the last part of a path, since a card is published."""
    text = str(source)
    return literal(Path(text).name if Path(text).is_absolute() or Path(text).exists() else text)
