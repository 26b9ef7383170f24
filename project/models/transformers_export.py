"""Export of a task as the folder of a transformers model."""

from pathlib import Path
from typing import Any

import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.networks.decoders.generation import TextWriter, TransformersTask
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.logs import silence_transformers, without_warning
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.basics.tokens.tokenizing import HINT_OF_MARIAN

NUM_COMPARED = 16
"""Number of positions on which the logits of the exported model are compared."""
PROBE = "The 3 cats: «ça va?» 你好，世界。🙂\n\tEnd"
"""Text that the exported tokenizer must split into the same tokens."""


def write_transformers(task: TaskModule, folder: Path) -> TransformersTask:
    """Write weights (safetensors), configuration, generation settings and tokenizer, and verify them by reading.

    Adapters are merged into the weights. Returns: the task.

    Raises: ConfigError when transformers has no model for this task, or the model it reads differs.
    """
    if not isinstance(task, TransformersTask):
        raise ConfigError(
            f"--format hf: transformers has no model for {type(task).__name__}, which is a task of lightrail. "
            f"Use --format safetensors."
        )
    silence_transformers()
    model = task.to_transformers()
    tokenizer = LanguageTokenizer.from_facts(task.tokenizer_facts())
    if isinstance(task, TextWriter):
        _name_ends(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    _compare_logits(task, folder, tokenizer)
    _compare_tokens(tokenizer, folder)
    return task


def _name_ends(model: Any, tokenizer: LanguageTokenizer) -> None:
    """Set start and end token for `generate` of transformers to those of our documents."""
    from transformers import GenerationConfig

    ends = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    for name, token_id in ends.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.end_id)


@torch.no_grad()
def _compare_logits(task: TransformersTask, folder: Path, tokenizer: LanguageTokenizer) -> None:
    import transformers

    read_model = getattr(transformers, task.transformers_class).from_pretrained(folder, trust_remote_code=False).eval()
    length = min(NUM_COMPARED, getattr(read_model.config, "max_position_embeddings", NUM_COMPARED))
    token_ids = torch.linspace(0, tokenizer.size - 1, length).long()
    token_ids[0] = tokenizer.start_id
    inputs = task.transformers_inputs(token_ids[None])
    expected = task.logits(**inputs)
    read = read_model(**inputs).logits
    difference = float((read - expected).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):  # tolerance for the rounding of merged adapters
        raise ConfigError(
            f"--format hf: the model that transformers reads has other logits (they differ by up to {difference:.3g}). "
            f"Nothing was written. Use --format safetensors, and report this with the model's configuration."
        )


def _compare_tokens(tokenizer: LanguageTokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    expected = tokenizer.encode(PROBE).tolist()
    with without_warning(HINT_OF_MARIAN):
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Ours is that of what is written, where the two sides of a translation differ.
    found = read(text_target=PROBE, add_special_tokens=False)["input_ids"]
    if found != expected:
        raise ConfigError(
            f"--format hf: the tokenizer that transformers reads splits {PROBE!r} into {found}, ours into {expected}. "
            f"Nothing was written. Use --format safetensors, and report this with the tokenizer's name."
        )
