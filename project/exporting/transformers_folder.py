"""Export of a task as the folder of a model of transformers, or of sentence-transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.conversion.protocols import (
    KeepsTokenizer,
    PipelineTask,
    SentenceTask,
    TransformersTask,
)
from lightrail.lightning_modules.networks.decoders.generation import TextWriter
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.logs import silence_transformers, without_warning
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.basics.tokens.tokenizing import HINT_OF_MARIAN
from lightrail.project.exporting.card import OtherLibrary
from lightrail.project.exporting.sentence_folder import USE_SENTENCES, write_modules, write_table
from lightrail.project.exporting.tokenizer_files import PROBES, write_for_transformers

NUM_COMPARED = 16
"""Number of positions on which the logits of the exported model are compared."""
USE_MODEL = """\
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained("{{folder}}")
tokenizer = AutoTokenizer.from_pretrained("{{folder}}")"""
USE_PIPELINE = """\
from transformers import pipeline

pipe = pipeline("{tag}", "{{folder}}"{built})
print(pipe("TEXT"{called}))"""


def write_transformers(task: TaskModule, data: Mapping[str, Any], folder: Path) -> OtherLibrary:
    """Write weights (safetensors), configuration, generation settings and tokenizer, and verify them by reading.

    Adapters are merged into the weights.

    Args:
        data: class path and arguments of the data, as they are stored.

    Returns: how the folder is used.

    Raises: ConfigError when transformers has no model for this task, or the model it reads differs.
    """
    if not isinstance(task, TransformersTask):
        raise ConfigError(
            f"--format hf: transformers has no model for {type(task).__name__}, which is a task of lightrail. "
            f"Use --format safetensors."
        )
    silence_transformers()
    sentences = task.sentence_form() if isinstance(task, SentenceTask) else None
    if sentences is not None and sentences.table is not None:
        write_table(sentences, data, task.data_facts(), folder)
        return OtherLibrary("sentence-transformers", USE_SENTENCES)
    model = task.to_transformers()
    if isinstance(task, KeepsTokenizer):
        tokenizer = LanguageTokenizer.from_facts(task.tokenizer_facts())
        size, first = tokenizer.size, tokenizer.start_id
        if isinstance(task, TextWriter):
            _name_ends(model, tokenizer)
        tokenizer.save(folder)
        _compare_tokens(tokenizer, folder)
    else:
        size, first = write_for_transformers(data, folder), 0
    model.save_pretrained(folder)
    _compare_logits(task, folder, size, first)
    if sentences is not None:
        write_modules(sentences, data, folder)
        return OtherLibrary("sentence-transformers", USE_SENTENCES)
    return _usage(task)


def _usage(task: TransformersTask) -> OtherLibrary:
    if not isinstance(task, PipelineTask):
        return OtherLibrary("transformers", USE_MODEL.format(loader=task.transformers_class))
    built, called = (f", {own}" if own else "" for own in task.pipeline_arguments)
    code = USE_PIPELINE.format(tag=task.pipeline_tag, built=built, called=called)
    return OtherLibrary("transformers", code, tuple(task.pipeline_notes))


def _name_ends(model: Any, tokenizer: LanguageTokenizer) -> None:
    """Set start and end token for `generate` of transformers to those of our documents."""
    from transformers import GenerationConfig

    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    for name, token_id in ends.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.end_id)


@torch.no_grad()
def _compare_logits(task: TransformersTask, folder: Path, size: int, first: int) -> None:
    import transformers

    read_model = getattr(transformers, task.transformers_class).from_pretrained(folder, trust_remote_code=False).eval()
    length = min(NUM_COMPARED, getattr(read_model.config, "max_position_embeddings", NUM_COMPARED))
    token_ids = torch.linspace(0, size - 1, length).long()
    token_ids[0] = first
    inputs = task.transformers_inputs(token_ids[None])
    expected = task.logits(**inputs)
    read = read_model(**inputs)[0]
    difference = float((read - expected).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):  # tolerance for the rounding of merged adapters
        raise ConfigError(
            f"--format hf: the model that transformers reads has other logits (they differ by up to {difference:.3g}). "
            f"Nothing was written. Use --format safetensors, and report this with the model's configuration."
        )


def _compare_tokens(tokenizer: LanguageTokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    text = PROBES[0]
    expected = tokenizer.encode(text).tolist()
    with without_warning(HINT_OF_MARIAN):
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Ours is that of what is written, where the two sides of a translation differ.
    found = read(text_target=text, add_special_tokens=False)["input_ids"]
    if found != expected:
        raise ConfigError(
            f"--format hf: the tokenizer that transformers reads splits {text!r} into {found}, ours into {expected}. "
            f"Nothing was written. Use --format safetensors, and report this with the tokenizer's name."
        )
