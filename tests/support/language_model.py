"""A language model as small as it can be, stored as a run stores it, without the time that training takes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lightrail.lightning_modules.arguments import to_plain
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

TEXTS = ["春天来了，花开了。", "to be or not to be", "🙂 ça va?"]
TINY_DECODER = TransformerDecoderConfig(width=16, depth=1, num_heads=2)


def language_model(
    tokenizer: LanguageTokenizer | None = None, decoder: DecoderConfig = TINY_DECODER, seed: int = 0
) -> CausalLM:
    """A model with random weights, large enough that its choices are not all alike."""
    torch.manual_seed(seed)
    found = tokenizer or load_language_tokenizer("characters", TEXTS)
    model = CausalLM(found.facts(), decoder=decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


def write_checkpoint(task: TaskModule, path: Path, names: Sequence[str] = ("decoder",), **data: str) -> Path:
    """Write what a run keeps of a task; `data` are settings of its data."""
    section = {name: to_plain(task.hparams[name]) for name in names}
    checkpoint = {
        "state_dict": task.state_dict(),
        "configuration": {
            "seed_everything": 0,
            "model": {"class_path": "CausalLM", "init_args": section},
            "data": {"class_path": "CausalLMData", "init_args": {"path": "embedded:peoples_daily", **data}},
        },
        "run": {"id": "", "folder": ""},
    }
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path
