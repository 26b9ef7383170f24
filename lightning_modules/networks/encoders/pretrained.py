"""Pretrained encoders of the Hugging Face hub, or from a folder that transformers wrote."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.adapters import LoraConfig, add_adapters
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, EncoderConfig, Spelling
from lightrail.lightning_modules.networks.loading import (
    NUM_PROBED,
    from_architecture,
    from_checkpoint,
    num_vectors,
    position_limit,
    token_tables,
)
from lightrail.lightning_modules.networks.row_names import AllOrNothing, RowNames
from lightrail.project.basics.annotations import ShareBelowOne
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(EncoderConfig):
    """A pretrained encoder, fine-tuned as a whole or through adapters. Its tokenizer is named in the data section."""

    checkpoint: str
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    dropout: ShareBelowOne | None = None
    """Dropout of hidden states and attention, in [0, 1). null: that of the checkpoint."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the pretrained weights, which stay as they are. null: train all weights."""
    architecture: dict[str, Any] | None = None
    """The network's own configuration, written into lightrail's checkpoints: with it the network is built without
    the original files, and its weights come from the checkpoint. Leave it out."""

    def build(self, vocabulary: Sequence[str], alphabet: Sequence[str] | None = None) -> "PretrainedEncoder":
        """Load the encoder.

        Raises: ConfigError when it cannot be loaded, has no dropout to set, or would get a vocabulary that is not its.
        """
        if vocabulary and not self.architecture:
            raise ConfigError(
                f"encoder.checkpoint: {shown(self.checkpoint, 200)} reads the token ids of its own tokenizer, and the "
                f"data has learned {len(vocabulary)} tokens of its own. Name the checkpoint's tokenizer in "
                "data.tokenizer, or choose a network that is trained from scratch."
            )
        return PretrainedEncoder(self, vocabulary)


class PretrainedEncoder(Encoder):
    """Wraps `transformers.AutoModel`."""

    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, vocabulary: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        self.tokens_of = tuple(vocabulary) or config.checkpoint
        model, self.own_tokens = self._load(config)
        if getattr(model, "pooler", None) is not None:
            # Our own pooling replaces it; weights without a gradient would stop DDP. Some networks call it unasked.
            model.pooler = nn.Identity()
        self.model = model.train()
        has_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self.tells_segments_apart = has_segments and (getattr(model.config, "type_vocab_size", None) or 0) > 1
        self.width, self.max_length = self._probe()
        self.config = replace(config, architecture=model.config.to_diff_dict())
        self.num_vectors = num_vectors(model)
        padding = getattr(model.config, "pad_token_id", None)
        self.neutral = None if padding is None else (padding, "the padding token")
        if config.lora is not None:
            add_adapters(model, config.lora, section="encoder")

    def forward(
        self,
        input_ids: Tensor,
        is_token: Tensor,
        segment_ids: Tensor | None = None,
        spelling: Spelling | None = None,
    ) -> Tensor:
        """Encode tokens, [B, T] to the last hidden states, [B, T, D]."""
        self.check_length(input_ids)
        more = {"token_type_ids": segment_ids} if segment_ids is not None and self.tells_segments_apart else {}
        states: Tensor = self.model(input_ids=input_ids, attention_mask=is_token.long(), **more).last_hidden_state
        return states  # [B, T, D]

    def input_embedding(self) -> nn.Module:
        """Return the embedding of tokens; positions and segments are added behind it."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def row_names(self) -> Mapping[str, RowNames]:
        """Return that the embedding's tokens are those of the tokenizer that comes with the checkpoint."""
        return {f"model.{name}": AllOrNothing(self.tokens_of) for name in token_tables(self.model)}

    def _probe(self) -> tuple[int, int | None]:
        """Return the width, and the most positions, found by encoding a text. Raises: ConfigError if it cannot."""
        shapes: list[torch.Size] = []
        kind = f"encoder.checkpoint: {shown(self.config.checkpoint, 200)} ({self.model.config.model_type})"
        with reading(f"{kind} is no encoder of token ids", "Name one, such as BERT or RoBERTa."):
            limit = position_limit(
                self.model, lambda ids: shapes.append(self(ids, torch.ones_like(ids, dtype=torch.bool)).shape)
            )
            if len(shapes[0]) != 3 or shapes[0][1] != NUM_PROBED:
                raise ValueError(f"it returns {list(shapes[0])}, not a vector for each position")
        return shapes[0][2], limit

    def _load(self, config: PretrainedConfig) -> tuple["PreTrainedModel", dict[str, int] | None]:
        from transformers import AutoModel  # here: a network from scratch should not wait for it

        if config.architecture:
            return from_architecture(AutoModel, config.architecture), None
        return from_checkpoint(AutoModel, config.checkpoint, config.revision, config.dropout, section="encoder")
