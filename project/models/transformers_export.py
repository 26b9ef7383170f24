"""A task that transformers has a model for, as the folder of that model."""

from pathlib import Path
from typing import Any

import torch

from lightrail.datamodules.tokens.numbering import LanguageTokenizer
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.generation import TransformersTask
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.logs import silence_transformers

NUM_COMPARED = 16
"""Positions on which the logits of what was written are compared."""
PROBE = "The 3 cats: «ça va?» 你好，世界。🙂\n\tEnd"
"""Text that the written tokenizer must cut as ours does."""


def write_transformers(task: TaskModule, folder: Path) -> TransformersTask:
    """Write weights as safetensors, configuration, generation settings and tokenizer; read them again and compare.

    Adapters are merged into the weights. Returns: the task.

    Raises: ConfigError when transformers has nothing like this task, or what it reads differs from what was written.
    """
    if not isinstance(task, TransformersTask):
        raise ConfigError(
            f"--format hf: transformers has no model like {type(task).__name__}, which is a task of lightrail. "
            f"Use --format safetensors."
        )
    silence_transformers()
    tokenizer = LanguageTokenizer.from_facts(task.tokenizer_facts())
    model = task.to_transformers()
    _name_ends(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    _compare_logits(task, folder, tokenizer)
    _compare_tokens(tokenizer, folder)
    return task


def _name_ends(model: Any, tokenizer: LanguageTokenizer) -> None:
    """Have `generate` of transformers begin and end as our documents do."""
    from transformers import GenerationConfig

    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    for name, number in ends.items():
        setattr(model.config, name, number)
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.end_id)


@torch.no_grad()
def _compare_logits(task: TransformersTask, folder: Path, tokenizer: LanguageTokenizer) -> None:
    import transformers

    read_model = getattr(transformers, task.transformers_class).from_pretrained(folder).eval()
    length = min(NUM_COMPARED, getattr(read_model.config, "max_position_embeddings", NUM_COMPARED))
    numbers = torch.linspace(0, tokenizer.size - 1, length).long()
    numbers[0] = tokenizer.start_id
    expected = task.logits(numbers[None])
    read = read_model(numbers[None]).logits
    difference = float((read - expected).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):  # as merged adapters round
        raise ConfigError(
            f"--format hf: what transformers reads gives other logits (they differ by up to {difference:.3g}). Nothing "
            f"was written. Use --format safetensors, and report this with the model's configuration."
        )


def _compare_tokens(tokenizer: LanguageTokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    expected = tokenizer.encode(PROBE).tolist()
    found = AutoTokenizer.from_pretrained(folder).encode(PROBE, add_special_tokens=False)
    if found != expected:
        raise ConfigError(
            f"--format hf: the tokenizer that transformers reads cuts {PROBE!r} into {found}, ours into {expected}. "
            f"Nothing was written. Use --format safetensors, and report this with the tokenizer's name."
        )
