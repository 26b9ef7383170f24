"""Any encoder of the Hugging Face hub, or a folder that transformers wrote."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.networks.encoder import Encoder, EncoderConfig
from project.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(EncoderConfig):
    """A pretrained encoder, fine-tuned as a whole. Its tokenizer is named in the data section."""

    checkpoint: str
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    dropout: float | None = None
    """Dropout of hidden states and attention, in [0, 1). null: as the checkpoint says."""
    architecture: dict[str, Any] | None = None
    """The network's own configuration, written into lightrail's checkpoints: with it the network is built without
    the original files, and its weights come from the checkpoint. Leave it out."""

    def build(self, num_tokens: int) -> "PretrainedEncoder":
        return PretrainedEncoder(self)


class PretrainedEncoder(Encoder):
    """Wraps `transformers.AutoModel`."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        model = _from_architecture(config) if config.architecture else _from_pretrained(config)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # we pool ourselves; weights without a gradient would stop DDP
        self.model = model.train()
        self.width = int(model.config.hidden_size)
        self.config = replace(config, architecture=model.config.to_diff_dict())

    def forward(self, input_ids: Tensor, is_token: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=input_ids, attention_mask=is_token.long()).last_hidden_state
        return states  # [B, T, D]


def _from_architecture(config: PretrainedConfig) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModel

    architecture = dict(config.architecture or {})
    settings = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    model: PreTrainedModel = AutoModel.from_config(settings, dtype=torch.float32)
    return model


def _from_pretrained(config: PretrainedConfig) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModel  # here: a network from scratch should not wait for it

    dropout = {}
    if config.dropout is not None:
        dropout = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    try:
        settings = AutoConfig.from_pretrained(config.checkpoint, revision=config.revision, **dropout)
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
