"""Pretrained encoders of the Hugging Face hub, or from a folder that transformers wrote."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.adapters import LoraConfig, add_adapters, merge_adapters
from lightrail.lightning_modules.networks.encoders.encoder import Encoder, EncoderConfig, Spelling, TokenHead
from lightrail.lightning_modules.networks.encoders.pooling import Pooling
from lightrail.lightning_modules.networks.loading import (
    NUM_PROBED,
    from_architecture,
    from_checkpoint,
    num_vectors,
    position_limit,
    token_tables,
    undisturbed,
)
from lightrail.lightning_modules.networks.row_names import AllOrNothing, RowNames
from lightrail.project.basics.annotations import ShareBelowOne
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LAST_LINEAR = r"(classifier|out_proj|score|logits_proj)\.(weight|bias)$"
"""Names that last layers of classifiers have, in place of which a task has its own."""


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
        return PretrainedEncoder(self, *self._load("AutoModel", vocabulary), vocabulary)

    def build_with_token_head(self, vocabulary: Sequence[str]) -> tuple[Encoder, TokenHead]:
        """Load the encoder with the head that it was pretrained with, as `build`.

        Raises: ConfigError, also when transformers has no masked language model of this type.
        """
        model, tokens = self._load("AutoModelForMaskedLM", vocabulary)
        where = f"encoder.checkpoint: {shown(self.checkpoint, 200)} ({model.config.model_type})"
        with reading(f"{where} scores no masked tokens", "Name a masked language model, such as BERT or RoBERTa."):
            head = PretrainedTokenHead(model)
        body = head.take_body()
        encoder = PretrainedEncoder(self, body, tokens, vocabulary)
        head.rows = {name: AllOrNothing(encoder.tokens_of) for name in head.tables}
        return encoder, head

    def build_with_pooling(self, vocabulary: Sequence[str]) -> tuple[Encoder, Pooling]:
        """Load the encoder with the layers by which its architecture classifies texts, but the last one, as `build`.

        Raises: ConfigError, also when transformers has no classifier of this type.
        """
        model, tokens = self._load("AutoModelForSequenceClassification", vocabulary, unused=_LAST_LINEAR)
        where = f"encoder.checkpoint: {shown(self.checkpoint, 200)} ({model.config.model_type})"
        with reading(f"{where} has no pooling of its own", "Set model.pooling to mean or first."):
            pooling, body = PretrainedPooling.of(model)
        return PretrainedEncoder(self, body, tokens, vocabulary), pooling

    def _load(
        self, auto: str, vocabulary: Sequence[str], unused: str = "pooler"
    ) -> tuple["PreTrainedModel", dict[str, int] | None]:
        """Return the network, a class of transformers, and the ids of its own tokens."""
        import transformers  # here: a network from scratch should not wait for it

        if self.architecture:
            return from_architecture(getattr(transformers, auto), self.architecture), None
        if vocabulary:
            raise ConfigError(
                f"encoder.checkpoint: {shown(self.checkpoint, 200)} reads the token ids of its own tokenizer, and the "
                f"data has learned {len(vocabulary)} tokens of its own. Name the checkpoint's tokenizer in "
                "data.tokenizer, or choose a network that is trained from scratch."
            )
        return from_checkpoint(
            getattr(transformers, auto), self.checkpoint, self.revision, self.dropout, section="encoder", unused=unused
        )


class PretrainedEncoder(Encoder):
    """Wraps `transformers.AutoModel`."""

    config: PretrainedConfig

    def __init__(
        self,
        config: PretrainedConfig,
        model: "PreTrainedModel",
        own_tokens: Mapping[str, int] | None = None,
        vocabulary: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config, self.own_tokens = config, own_tokens
        self.tokens_of = tuple(vocabulary) or config.checkpoint
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


class _Body(nn.Module):
    """Stands for the network behind a head, and returns vectors that it was given.

    Args:
        pooler: of the network, where its head reads it.
        activation: of the pooler, where that is a linear layer of the first state, as ALBERT's.
    """

    states: Tensor | None = None

    def __init__(self, pooler: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.pooler, self.activation = pooler, activation

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return the vectors as the last hidden states, and what the pooler makes of them."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled = None
        if self.pooler is not None and self.states is not None:
            pooled = self.pooler(self.states if self.activation is None else self.states[:, 0])
            pooled = pooled if self.activation is None else self.activation(pooled)
        return BaseModelOutputWithPooling(last_hidden_state=self.states, pooler_output=pooled)


def _take_body(model: "PreTrainedModel", *, keeps_pooler: bool = False) -> "PreTrainedModel":
    """Take the network out of a model, which keeps the head alone. Raises: ValueError when they are one."""
    body: PreTrainedModel = model.base_model
    if body is model:
        raise ValueError("its head is not apart from its network")
    parts = [getattr(body, name, None) for name in ("pooler", "pooler_activation")] if keeps_pooler else []
    setattr(model, model.base_model_prefix, _Body(*parts))
    return body


def _read_by_head(model: "PreTrainedModel", states: Tensor, is_token: Tensor) -> Tensor:
    """Return the logits that a model without its network gives for states, [N, T, D], where `is_token`, [N, T]."""
    body = model.base_model
    body.states = states
    try:
        ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        logits: Tensor = model(input_ids=ids, attention_mask=is_token.long()).logits
    finally:
        body.states = None
    return logits


def joined(head: "PreTrainedModel", encoder: "PretrainedEncoder") -> "PreTrainedModel":
    """Return a copy of a head with its network, adapters merged, as one model; copied at once, as they may share."""
    model, body = copy.deepcopy((head, encoder.model))
    if encoder.config.lora is not None:
        merge_adapters(body)
    if (pooler := getattr(model.base_model, "pooler", None)) is not None:
        body.pooler = pooler
    setattr(model, model.base_model_prefix, body)
    return model.eval()


def copied(encoder: "PretrainedEncoder") -> "PreTrainedModel":
    """Return a copy of the network of an encoder, adapters merged."""
    model = copy.deepcopy(encoder.model)
    if encoder.config.lora is not None:
        merge_adapters(model)
    return model.eval()


class PretrainedTokenHead(TokenHead):
    """The head of any masked language model of transformers, whose network stands apart, as an encoder.

    Args:
        model: the whole model; `take_body` takes its network.

    Raises: ValueError when the model's head reads more than the last hidden states.
    """

    rows: Mapping[str, RowNames]

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        body_name = f"{model.base_model_prefix}."
        self.model = model.train()
        self.tables = [f"model.{name}" for name in token_tables(model) if not name.startswith(body_name)]
        self.rows = {}
        ids = _probe_ids(model)
        with undisturbed(model):
            expected = model(input_ids=ids).logits
            states = model.base_model(input_ids=ids).last_hidden_state
            body = self.take_body()
            found = _read_by_head(model, states, torch.ones_like(ids))
            setattr(model, model.base_model_prefix, body)
        _check_equal(found, expected)

    def take_body(self) -> "PreTrainedModel":
        """Take the network out of the model, which keeps the head alone, and return it."""
        return _take_body(self.model)

    def row_names(self) -> Mapping[str, RowNames]:
        """Return that the tokens are those of the tokenizer that comes with the checkpoint."""
        return self.rows

    def forward(self, states: Tensor, encoder: Encoder) -> Tensor:
        """Score tokens, [N, D] to [N, V]."""
        return _read_by_head(self.model, states[None], torch.ones_like(states[None, :, 0]))[0]

    def to_transformers(self, encoder: Encoder) -> "PreTrainedModel":
        """Return a copy of the whole model."""
        assert isinstance(encoder, PretrainedEncoder), "the head was loaded with its encoder"
        return joined(self.model, encoder)


class PretrainedPooling(Pooling):
    """The layers of a classifier of transformers between its network and its last layer, such as BERT's pooler.

    They have no dropout: the task zeroes a part of the vector that they return.

    Args:
        model: a classifier without its network.
        last: name of its last layer, which it lacks too.
    """

    def __init__(self, model: "PreTrainedModel", last: str) -> None:
        super().__init__()
        self.model, self.last = model, last
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0

    @classmethod
    def of(cls, model: "PreTrainedModel") -> tuple["PretrainedPooling", "PreTrainedModel"]:
        """Divide a classifier into its pooling and its network, without the last layer.

        Raises: ValueError when it reads more than the last hidden states, or ends in something else.
        """
        ids = _probe_ids(model)
        with undisturbed(model):
            last, expected = last_linear(model)
            linear: Any = model.get_submodule(last)
            states = model.base_model(input_ids=ids).last_hidden_state
            body = _take_body(model, keeps_pooler=True)
            set_layer(model, last, nn.Identity())
            found = linear(_read_by_head(model, states, torch.ones_like(ids)))
        _check_equal(found, expected)
        if linear.in_features != states.shape[-1]:
            raise ValueError(f"its vectors have {linear.in_features} numbers, the states {states.shape[-1]}")
        return cls(model.train(), last), body

    def forward(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Pool the states of texts, [N, T, D] to [N, D]."""
        return _read_by_head(self.model, states, is_token)

    def to_transformers(self, encoder: Encoder, linear: nn.Linear) -> "PreTrainedModel":
        """Return a copy of the whole classifier, with a last layer."""
        assert isinstance(encoder, PretrainedEncoder), "the pooling was loaded with its encoder"
        model = joined(self.model, encoder)
        set_layer(model, self.last, linear)
        return model


def last_linear(model: "PreTrainedModel") -> tuple[str, Tensor]:
    """Return the name of the linear layer whose output are a model's logits, and those of a trial.

    Raises: ValueError when there is none.
    """
    seen: dict[str, Tensor] = {}
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}

    def note(name: str) -> Any:
        return lambda _layer, _inputs, output: seen.update({name: output})

    hooks = [part.register_forward_hook(note(name)) for name, part in layers.items()]
    try:
        logits: Tensor = model(input_ids=_probe_ids(model)).logits
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, output in seen.items() if torch.equal(output, logits)]
    if not found:
        raise ValueError("its last layer is not linear")
    return found[-1], logits


def set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace a layer inside of a network."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _probe_ids(model: "PreTrainedModel") -> Tensor:
    """Return token ids of a trial that are no padding, [1, T]."""
    return torch.full((1, NUM_PROBED), int(getattr(model.config, "pad_token_id", None) == 0))


def _check_equal(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise ValueError("its head reads more than the last hidden states")
