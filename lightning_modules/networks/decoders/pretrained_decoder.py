"""Any causal language model of transformers: from the hub or a folder, or of any architecture from scratch.

Shapes: B rows, T positions, N kept positions, V rows of the output matrix.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightrail.lightning_modules.networks.adapters import LoraConfig, add_adapters, merge_adapters
from lightrail.lightning_modules.networks.decoders.decoder import Decoder, DecoderConfig, TokenCache
from lightrail.lightning_modules.networks.decoders.probing import PackedArguments, is_causal, takes
from lightrail.lightning_modules.networks.loading import (
    NUM_PROBED,
    from_architecture,
    from_checkpoint,
    num_vectors,
    position_limit,
    switch_checkpointing,
    token_tables,
)
from lightrail.project.basics.annotations import ShareBelowOne
from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig as Architecture
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class PretrainedDecoderConfig(DecoderConfig):
    """A pretrained language model, fine-tuned as a whole or through adapters. Its tokenizer is named in the data
    section."""

    checkpoint: str
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    gguf_file: str | None = None
    """File of the checkpoint in llama.cpp's format to take the weights from; needs the package gguf. null: the
    checkpoint's safetensors."""
    dropout: ShareBelowOne | None = None
    """Dropout of hidden states and attention, in [0, 1). null: that of the checkpoint."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the pretrained weights, which stay as they are. null: train all weights."""
    gradient_checkpointing: bool = False
    """Compute each block's hidden states again in the backward pass rather than keep them: much less memory, a third
    more time."""
    architecture: dict[str, Any] | None = None
    """The network's own configuration, written into lightrail's checkpoints: with it the network is built without
    the original files, and its weights come from the checkpoint. Leave it out."""

    def build(self, num_tokens: int) -> "PretrainedDecoder":
        """Load the network. Raises: ConfigError when it cannot be loaded or lacks vectors for some token."""
        model, tokens = self._load()
        _check_vocabulary(model, num_tokens, self.checkpoint)
        if self.lora is not None:
            add_adapters(model, self.lora, section="decoder")
        if self.gradient_checkpointing:
            _keep_blocks_alone(model)
        decoder = PretrainedDecoder(num_tokens, replace(self, architecture=model.config.to_diff_dict()), model)
        decoder.own_tokens = tokens
        return decoder

    def _load(self) -> tuple["PreTrainedModel", dict[str, int] | None]:
        from transformers import AutoModelForCausalLM  # here: a network from scratch should not wait for it

        if self.architecture:
            return from_architecture(AutoModelForCausalLM, self.architecture), None
        more = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        model, tokens = from_checkpoint(
            AutoModelForCausalLM, self.checkpoint, self.revision, self.dropout, section="decoder", **more
        )
        where = f"decoder.checkpoint: {shown(self.checkpoint, 200)} ({model.config.model_type})"
        fix = "Name a causal language model, such as GPT-2 or Llama."
        with reading(f"{where} scores no tokens", fix):
            sees_what_follows = not is_causal(model)
        if sees_what_follows:
            raise ConfigError(f"{where} sees the tokens that it should predict. {fix}")
        return model, tokens


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig(DecoderConfig):
    """Any causal language model of transformers, with fresh weights."""

    model_type: str
    """Name of the architecture in transformers, such as gpt2, llama, qwen3 or mamba."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the architecture by the names of its configuration class, such as num_hidden_layers. The size of the
    vocabulary comes from the data."""

    def build(self, num_tokens: int) -> "PretrainedDecoder":
        """Build the network with fresh weights. Raises: ConfigError for settings that it does not accept."""
        from transformers import AutoModelForCausalLM

        _check_settings(self.model_type, self.settings)
        # Token ids come from the data: the architecture's own id of padding would be a word's, whose vector would
        # never be trained.
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
        architecture = {"model_type": self.model_type, "vocab_size": num_tokens, **special, **self.settings}
        where = f"decoder.settings: {self.model_type} cannot be built with {shown(self.settings, 300)}"
        with reading(where, "Change the settings that this names."):
            model = from_architecture(AutoModelForCausalLM, architecture)
            sees_what_follows = not is_causal(model)
        if sees_what_follows:
            raise ConfigError(
                f"decoder.model_type: {self.model_type} with {self.settings} sees the tokens that it should predict. "
                "Set is_decoder: true in decoder.settings where the architecture has it, or choose another."
            )
        return PretrainedDecoder(num_tokens, self, model)


class PretrainedDecoder(Decoder):
    """Wraps `transformers.AutoModelForCausalLM`.

    The scores are the network's own, one for each row of its output matrix: these may be more than the tokenizer has,
    and their probability counts, so that a perplexity equals that of transformers.
    """

    def __init__(
        self, num_tokens: int, config: PretrainedDecoderConfig | ArchitectureConfig, model: "PreTrainedModel"
    ) -> None:
        super().__init__()
        self.config, self.num_tokens = config, num_tokens
        self.max_length = _most_positions(model)
        self.model = model.train()
        self.not_cached = {"use_cache": False} if takes(model, "use_cache") else {}
        self.packed_arguments: PackedArguments | None = None
        """Determined with the first row of several documents."""

    def forward(
        self,
        input_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Score the next token; see `Decoder.forward`."""
        arguments: dict[str, Any] = self.not_cached
        num_new, num_read = input_ids.shape[1], 0
        if isinstance(cache, TokenCache):
            input_ids = cache.extend(input_ids)
        elif cache is not None:
            arguments, num_read = {"use_cache": True, "past_key_values": cache}, cache.get_seq_length()
        self.check_length(input_ids, document_ids, num_read)
        if document_ids is not None:
            arguments = arguments | self._packed(document_ids)
        if keep is None:
            logits: Tensor = self.model(input_ids=input_ids, **arguments).logits
            return logits[:, -num_new:]
        return self._kept(input_ids, keep, num_new, arguments)

    def input_embedding(self) -> nn.Module:
        """Return the embedding of tokens; positions are added behind it."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def token_tables(self) -> Mapping[str, str]:
        """Return the names of embedding and output."""
        return {f"model.{name}": "target" for name in token_tables(self.model)}

    def start_cache(self) -> Any:
        """Return transformers' own cache; for a network without one, a cache of tokens."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config) if takes(self.model, "past_key_values") else TokenCache()

    def to_transformers(self) -> "PreTrainedModel":
        """Return a copy of the network, with adapters merged into its weights."""
        model = copy.deepcopy(self.model)
        if getattr(self.config, "gradient_checkpointing", False):
            switch_checkpointing(model, "disable")
        if getattr(self.config, "lora", None) is not None:
            merge_adapters(model)
        return model.eval()

    def _packed(self, document_ids: Tensor) -> dict[str, Tensor]:
        if self.packed_arguments is None:
            try:
                self.packed_arguments = PackedArguments(self.model)
            except ValueError as error:
                raise ConfigError(
                    f"decoder: {error} cannot read several documents in one row without mixing them up: it takes no "
                    "positions or mask that would keep them apart. Set data.blocks.method=separate."
                ) from error
        return self.packed_arguments(document_ids)

    def _kept(self, input_ids: Tensor, keep: Tensor, num_new: int, arguments: dict[str, Any]) -> Tensor:
        """Select positions before the output matrix: the scores of all positions need much memory."""

        def choose(_: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (states[0][:, -num_new:][keep], *states[1:])  # [N, D]

        output = self.model.get_output_embeddings()
        hook = None if output is None else output.register_forward_pre_hook(choose)
        try:
            logits: Tensor = self.model(input_ids=input_ids, **arguments).logits
        finally:
            if hook is not None:
                hook.remove()
        return logits if logits.ndim == 2 else logits[:, -num_new:][keep]  # [N, V]


def _most_positions(model: "PreTrainedModel") -> int | None:
    """Return the most positions that a network states, or its table of positions has; None: no limit."""
    stated = (getattr(model.config, name, None) for name in _POSITIONS)
    limits = [limit for limit in stated if isinstance(limit, int) and limit > 0]  # XLNet states -1
    if min(limits, default=NUM_PROBED) >= NUM_PROBED:  # the first rows of a table may be none of positions (RoBERTa)
        limits += filter(None, [position_limit(model, lambda ids: model(input_ids=ids))])
    return min(limits, default=None)


_POSITIONS = ("max_position_embeddings", "max_target_positions", "max_seq_len")
"""Names that architectures give their number of positions: most of them, Whisper, MPT."""


def _check_vocabulary(model: "PreTrainedModel", num_tokens: int, checkpoint: str) -> None:
    size = num_vectors(model)
    if size is not None and num_tokens > size:
        raise ConfigError(
            f"the data's tokenizer has {num_tokens} tokens, but {checkpoint!r} has vectors for {size}. "
            "Name the checkpoint's own tokenizer in data.tokenizer; where tokens were added to it, save tokenizer and "
            "network in one folder."
        )


def _keep_blocks_alone(model: "PreTrainedModel") -> None:
    try:
        switch_checkpointing(model, "enable", {"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"decoder.gradient_checkpointing: {model.config.model_type} has none. Leave it out."
        ) from error


def _check_settings(model_type: str, settings: dict[str, Any]) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            f"decoder.model_type: transformers has no causal language model called {model_type!r}. "
            f"{_advice(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    defaults: Architecture = AutoConfig.for_model(model_type)
    known = {*defaults.to_dict(), *defaults.attribute_map}
    for name in settings:
        if name == "vocab_size":
            raise ConfigError("decoder.settings: vocab_size comes from the data's tokenizer. Leave it out.")
        if name not in known:
            raise ConfigError(f"decoder.settings: {model_type} has no setting {name!r}. {_advice(name, known)}")


def _advice(name: str, names: Iterable[str]) -> str:
    found = nearest(name, names, most=3, least_alike=0.5)
    return f"Did you mean {' or '.join(found)}?" if found else "Look it up in the documentation of transformers."
