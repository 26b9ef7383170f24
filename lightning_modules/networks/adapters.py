"""Low-rank adapters: a few weights trained beside those of a pretrained network, which stay fixed."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from lightrail.project.basics.annotations import Positive, PositiveInt, Ranged, ShareBelowOne
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Ranged):
    """Low-rank adaptation of linear layers, done by peft.

    Sources: E. Hu et al. (2022), "LoRA: Low-Rank Adaptation of Large Language Models"; S. Liu et al. (2024), "DoRA:
    Weight-Decomposed Low-Rank Adaptation".
    """

    rank: PositiveInt = 8
    """Columns of the two matrices whose product is added to a layer's weight, at least 1."""
    alpha: Positive = 16.0
    """The product counts `alpha` / `rank` times, above 0."""
    dropout: ShareBelowOne = 0.0
    """Fraction of an adapter's input zeroed in training, in [0, 1)."""
    target_modules: list[str] = field(default_factory=list)
    """Ends of the names of the layers that get an adapter, such as query and value. Empty: every linear layer,
    without the one that scores the tokens of a language model."""
    dora: bool = False
    """Train the length of each output's weights apart from their direction (DoRA): closer to training all weights, and
    slower."""


def add_adapters(model: "PreTrainedModel", config: LoraConfig, *, section: str) -> None:
    """Add adapters to the linear layers of a network, in place, and leave nothing else of it to train.

    Adapters begin as zero: the network's outputs stay the same. `section` of the model names it in messages.

    Raises: ConfigError when no layer has such a name, or peft is not installed.
    """
    has_transposed = _check_targets(model, config.target_modules, section)
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"{section}.lora needs peft. Install lightrail[lora], or leave {section}.lora out."
        ) from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules or ALL_LINEAR,
        use_dora=config.dora,
        fan_in_fan_out=has_transposed,
    )
    with reading(f"{section}.lora cannot be added", f"Choose other {section}.lora.target_modules, or leave it out."):
        peft.inject_adapter_in_model(settings, model)


def adapters_of(model: nn.Module) -> dict[str, Any]:
    """Return rank, scale and kind of each adapter in a network, by the name of its layer."""
    if "peft" not in sys.modules:  # a slow import, and who has added an adapter has made it
        return {}
    from peft.tuners.lora import LoraLayer

    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    return {name: (dict(part.r), dict(part.scaling), dict(part.use_dora)) for name, part in layers}


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters' products to the layers' own weights, in place, and remove the adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, part in [*model.named_modules()]:
        if isinstance(part, BaseTunerLayer):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, part.get_base_layer())
    for weight in model.parameters():
        weight.requires_grad_(True)


def _check_targets(model: "PreTrainedModel", targets: list[str], section: str) -> bool:
    """Refuse names that no linear layer has. Returns: whether these layers store their matrices transposed."""
    from transformers.pytorch_utils import Conv1D  # the linear layer of GPT-2 and its like

    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(
                f"{section}.lora.target_modules: no linear layer is called {target!r}. "
                f"Those of this network are {names}."
            )
    return any(isinstance(part, Conv1D) for part in model.modules())
