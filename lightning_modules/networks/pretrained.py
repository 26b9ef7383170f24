"""Any encoder of the Hugging Face hub, or a folder that transformers wrote."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.networks.adapters import LoraConfig, add_adapters
from lightning_modules.networks.encoder import Encoder, EncoderConfig
from project.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig as Architecture
    from transformers import PreTrainedModel

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT and most of its kin
    *("dropout", "attention_dropout", "hidden_dropout", "activation_dropout"),  # DistilBERT, Funnel, BART
    *("embedding_dropout", "mlp_dropout"),  # ModernBERT
    *("embd_pdrop", "resid_pdrop", "attn_pdrop", "dropout_rate"),  # GPT-2, T5
)
"""What architectures call their dropout of hidden states and attention."""


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(EncoderConfig):
    """A pretrained encoder, fine-tuned as a whole or through adapters. Its tokenizer is named in the data section."""

    checkpoint: str
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    dropout: float | None = None
    """Dropout of hidden states and attention, in [0, 1). null: as the checkpoint says."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the pretrained weights, which stay as they are. null: train all weights."""
    architecture: dict[str, Any] | None = None
    """The network's own configuration, written into lightrail's checkpoints: with it the network is built without
    the original files, and its weights come from the checkpoint. Leave it out."""

    def build(self, vocabulary: Sequence[str]) -> "PretrainedEncoder":
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout is {self.dropout}. Give a number in [0, 1), or null.")
        return PretrainedEncoder(self)


class PretrainedEncoder(Encoder):
    """Wraps `transformers.AutoModel`."""

    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        model = _from_architecture(config) if config.architecture else _from_pretrained(config)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # we pool ourselves; weights without a gradient would stop DDP
        self.model = model.train()
        self.width = int(model.config.hidden_size)
        self.config = replace(config, architecture=model.config.to_diff_dict())
        has_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self.tells_segments_apart = has_segments and (getattr(model.config, "type_vocab_size", None) or 0) > 1
        if config.lora is not None:
            add_adapters(model, config.lora)

    def forward(self, input_ids: Tensor, is_token: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        more = {"token_type_ids": segment_ids} if segment_ids is not None and self.tells_segments_apart else {}
        states: Tensor = self.model(input_ids=input_ids, attention_mask=is_token.long(), **more).last_hidden_state
        return states  # [B, T, D]


def _from_architecture(config: PretrainedConfig) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModel

    architecture = dict(config.architecture or {})
    settings = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    model: PreTrainedModel = AutoModel.from_config(settings, dtype=torch.float32)
    return model


def _from_pretrained(config: PretrainedConfig) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModel  # here: a network from scratch should not wait for it

    try:
        settings = AutoConfig.from_pretrained(config.checkpoint, revision=config.revision)
        _set_dropout(settings, config.dropout)
        # float32 whatever the file holds: mixed precision is the trainer's to choose, and it wants full weights.
        model: PreTrainedModel = AutoModel.from_pretrained(
            config.checkpoint, revision=config.revision, config=settings, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder.checkpoint: {config.checkpoint!r} cannot be loaded: {str(error).splitlines()[0]} "
            "Name a model of the Hugging Face hub, or a folder with config.json and model.safetensors."
        ) from error
    return model


def _set_dropout(settings: "Architecture", dropout: float | None) -> None:
    names = [name for name in _DROPOUTS if hasattr(settings, name)]
    if dropout is None:
        return
    if not names:
        raise ConfigError(
            f"encoder.dropout: {settings.model_type} has no dropout of its own that could be set. "
            "Leave it out; the task's own dropout counts all the same."
        )
    for name in names:
        setattr(settings, name, dropout)
