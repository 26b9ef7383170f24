"""Networks of transformers: from a folder, from the hub, or from their architecture alone.

Settings are named in messages as those of a `section` of the model, `encoder` or `decoder`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightrail.project.basics.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig as Architecture
    from transformers import PreTrainedModel

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT and its relatives
    *("dropout", "attention_dropout", "hidden_dropout", "activation_dropout"),  # DistilBERT, Funnel, BART, Llama
    *("embedding_dropout", "mlp_dropout"),  # ModernBERT
    *("embd_pdrop", "resid_pdrop", "attn_pdrop", "dropout_rate"),  # GPT-2, T5
)
"""Names that architectures give their dropout of hidden states and attention."""


def from_architecture(auto: Any, architecture: Mapping[str, Any]) -> "PreTrainedModel":
    """Build a network with fresh weights in float32; `auto` is its class of transformers, such as AutoModel."""
    from transformers import AutoConfig

    settings = dict(architecture)
    model: PreTrainedModel = auto.from_config(
        AutoConfig.for_model(settings.pop("model_type"), **settings), dtype=torch.float32
    )
    return model


def from_checkpoint(
    auto: Any, checkpoint: str, revision: str | None, dropout: float | None, *, section: str, **more: Any
) -> "PreTrainedModel":
    """Load a pretrained network with its weights, in float32; `more` goes to transformers.

    Raises: ConfigError when it cannot be loaded or has no dropout to set.
    """
    from transformers import AutoConfig  # here: a network from scratch should not wait for it

    try:
        # Code of a checkpoint is never run. Left out, the answer would be read from standard input, which may be data.
        more["trust_remote_code"] = False
        settings = AutoConfig.from_pretrained(checkpoint, revision=revision, **more)
        _set_dropout(settings, dropout, section)
        # float32 whatever the file holds: mixed precision is the trainer's to choose, and it wants full weights.
        model: PreTrainedModel = auto.from_pretrained(
            checkpoint, revision=revision, config=settings, dtype=torch.float32, **more
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{section}.checkpoint: {checkpoint!r} cannot be loaded: {reason} "
            "Name a model of the Hugging Face hub, or a folder with config.json and model.safetensors."
        ) from error
    return model


def switch_checkpointing(model: "PreTrainedModel", action: Literal["enable", "disable"], *arguments: Any) -> None:
    """Enable or disable the checkpointing of activations, which some release of transformers 5 renamed.

    Raises: ValueError when the network has none.
    """
    newer = getattr(model, f"activation_checkpointing_{action}", None)
    (newer or getattr(model, f"gradient_checkpointing_{action}"))(*arguments)


def _set_dropout(settings: "Architecture", dropout: float | None, section: str) -> None:
    names = [name for name in _DROPOUTS if hasattr(settings, name)]
    if dropout is None:
        return
    if not names:
        raise ConfigError(
            f"{section}.dropout: {settings.model_type} has no dropout of its own that could be set. "
            "Leave it out; the task's own dropout counts all the same."
        )
    for name in names:
        setattr(settings, name, dropout)
