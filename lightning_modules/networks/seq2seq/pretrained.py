"""Any encoder-decoder of transformers: from the hub or a folder.

Shapes: B examples, S positions of the source, T positions of the target, R rows of a search, K beams, V rows of the
output matrix.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightrail.lightning_modules.networks.adapters import LoraConfig, add_adapters, merge_adapters
from lightrail.lightning_modules.networks.loading import (
    from_architecture,
    from_checkpoint,
    num_vectors,
    position_limit,
    switch_checkpointing,
    token_tables,
)
from lightrail.lightning_modules.networks.seq2seq.decoding import DecodingConfig, Hypothesis
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2Seq, Seq2SeqConfig, Vocabulary
from lightrail.project.basics.annotations import ShareBelowOne
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.private_names import attention_kind
from lightrail.project.basics.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STEP = 32
"""Limits of lengths are rounded up to multiples of this, so that a batch takes few searches."""
_FIX = "Name an encoder-decoder, such as T5, Marian or mBART."


@dataclass(frozen=True, kw_only=True)
class PretrainedSeq2SeqConfig(Seq2SeqConfig):
    """A pretrained encoder-decoder, fine-tuned as a whole or through adapters. Its tokenizer is named in the data
    section."""

    checkpoint: str
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
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
    generation: dict[str, Any] | None = None
    """The checkpoint's own settings for generation, written into lightrail's checkpoints. Leave it out."""

    def build(self, source: Vocabulary, target: Vocabulary, *, is_shared: bool) -> "PretrainedSeq2Seq":
        """Load the network.

        Raises: ConfigError when it cannot be loaded, is no encoder-decoder, or lacks vectors for some token.
        """
        where = f"network.checkpoint: {shown(self.checkpoint, 200)}"
        if not is_shared:
            raise ConfigError(
                f"{where} reads and writes the tokens of one tokenizer, and the data has one for each side. Leave "
                "data.target_tokenizer out."
            )
        model, tokens = self._load()
        size = num_vectors(model)
        if size is not None and max(source.size, target.size) > size:
            raise ConfigError(
                f"the data's tokenizer has {max(source.size, target.size)} tokens, but {where} has vectors for {size}. "
                "Name the checkpoint's own tokenizer in data.tokenizer."
            )
        if self.lora is not None:
            add_adapters(model, self.lora, section="network")
        if self.gradient_checkpointing:
            with reading(f"{where} cannot compute hidden states again", "Leave network.gradient_checkpointing out."):
                switch_checkpointing(model, "enable", {"use_reentrant": False})
        config = replace(
            self, architecture=model.config.to_diff_dict(), generation=model.generation_config.to_diff_dict()
        )
        network = PretrainedSeq2Seq(config, target, model)
        network.own_tokens = tokens
        return network

    def _load(self) -> tuple["PreTrainedModel", dict[str, int] | None]:
        from transformers import AutoModelForSeq2SeqLM, GenerationConfig

        if self.architecture:
            model = from_architecture(AutoModelForSeq2SeqLM, self.architecture)
            if self.generation:
                model.generation_config = GenerationConfig(**self.generation)
            return model, None
        return from_checkpoint(AutoModelForSeq2SeqLM, self.checkpoint, self.revision, self.dropout, section="network")


class PretrainedSeq2Seq(Seq2Seq):
    """Wraps `transformers.AutoModelForSeq2SeqLM`: its own scores, and its own search."""

    config: PretrainedSeq2SeqConfig

    def __init__(self, config: PretrainedSeq2SeqConfig, target: Vocabulary, model: "PreTrainedModel") -> None:
        super().__init__()
        self.config = config
        self.model = model.train()
        settings = model.config
        if not settings.is_encoder_decoder:
            raise ConfigError(f"network.checkpoint: {shown(config.checkpoint, 200)} is no encoder-decoder. {_FIX}")
        start = getattr(settings, "decoder_start_token_id", None)
        if start is None:  # mBART: targets end with the code of their language, and the decoder begins with it
            start = target.start_id
        never = {*target.never, start, settings.pad_token_id} - {None, target.end_id, *target.before}
        self.target = replace(target, start_id=start, never=tuple(sorted(never)))
        with reading(f"network.checkpoint: {shown(config.checkpoint, 200)} reads no tokens", _FIX):
            self.max_length = position_limit(model, lambda ids: model(input_ids=ids, decoder_input_ids=ids))
        self.num_vectors = num_vectors(model)

    def encode(self, input_ids: Tensor, is_token: Tensor) -> Memory:
        """Read sources, [B, S] to [B, S, D]."""
        self.check_length(input_ids)
        outputs = self.model.get_encoder()(input_ids=input_ids, attention_mask=is_token.long())
        return Memory(outputs.last_hidden_state, is_token)

    def score(self, memory: Memory, decoder_ids: Tensor, *, forced_fraction: float = 1.0) -> Tensor:
        """Score given targets, [B, T] to [B, T, V]."""
        self.check_length(decoder_ids)
        logits: Tensor = self.model(**self._source(memory), decoder_input_ids=decoder_ids, use_cache=False).logits
        return logits

    def token_tables(self) -> Mapping[str, str]:
        """Return the names of embeddings and output, which both sides share."""
        return {f"model.{name}": "target" for name in token_tables(self.model)}

    def start_cache(self, memory: Memory) -> "SearchCache":
        """Return an empty cache of transformers."""
        from transformers import DynamicCache, EncoderDecoderCache

        return SearchCache(memory, EncoderDecoderCache(DynamicCache(), DynamicCache()))

    def step(self, newest: Tensor, cache: "SearchCache") -> Tensor:
        """Score the next token of each row, [R] to [R, V]."""
        given = {**self._source(cache.memory), "past_key_values": cache.past, "use_cache": True}
        logits: Tensor = self.model(**given, decoder_input_ids=newest[:, None]).logits
        return logits[:, -1]

    def search(self, memory: Memory, config: DecodingConfig) -> list[list[Hypothesis]]:
        """Search by transformers' own `generate`; see `OwnSearch.search`."""
        limits = [min(config.max_tokens, _STEP * -(-limit // _STEP)) for limit in config.limits(memory.is_token)]
        found: list[list[Hypothesis]] = [[] for _ in limits]
        for limit in set(limits):  # a search has one limit for all its sentences
            numbers = [number for number, own in enumerate(limits) if own == limit]
            rows = torch.tensor(numbers, device=memory.states.device)
            for number, own in zip(numbers, self._generate(memory.select(rows), config, limit), strict=True):
                found[number] = own
        return found

    @torch.no_grad()
    def _generate(self, memory: Memory, config: DecodingConfig, limit: int) -> list[list[Hypothesis]]:
        found = self.model.generate(**self._source(memory), generation_config=self._generation(config, limit))
        totals = self._totals(found, config)
        own = [self._hypothesis(ids, total) for ids, total in zip(found.sequences.tolist(), totals, strict=True)]
        return [own[start : start + config.num_best] for start in range(0, len(own), config.num_best)]

    def attention(self, memory: Memory, decoder_ids: Tensor) -> Tensor:
        """Return the last layer's attention to the source, mean over its heads, [B, T, S]."""
        with eager_attention(self.model):
            given = {**self._source(memory), "decoder_input_ids": decoder_ids, "use_cache": False}
            weights: Tensor = self.model(**given, output_attentions=True).cross_attentions[-1]
        return weights.mean(1)

    def to_transformers(self) -> "PreTrainedModel":
        """Return a copy of the network, with adapters merged into its weights."""
        model = copy.deepcopy(self.model)
        if self.config.gradient_checkpointing:
            switch_checkpointing(model, "disable")
        if self.config.lora is not None:
            merge_adapters(model)
        return model.eval()

    def _source(self, memory: Memory) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutput

        states = BaseModelOutput(last_hidden_state=memory.states)
        return {"encoder_outputs": states, "attention_mask": memory.is_token.long()}

    def _generation(self, config: DecodingConfig, limit: int) -> Any:
        """The checkpoint's own settings, with ours in their place."""
        settings = copy.deepcopy(self.model.generation_config)
        before = self.target.before
        settings.update(
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            num_return_sequences=config.num_best,
            early_stopping=False,
            do_sample=False,
            max_length=None,
            max_new_tokens=limit,
            decoder_start_token_id=self.target.start_id,
            eos_token_id=self.target.end_id,
            forced_bos_token_id=before[0] if before else settings.forced_bos_token_id,
            suppress_tokens=list(self.target.never) or None,
            output_scores=True,
            return_dict_in_generate=True,
        )
        return settings

    def _totals(self, found: Any, config: DecodingConfig) -> list[float]:
        """Log probability of each sequence."""
        if config.num_beams > 1:
            lengths = [self._num_scored(ids) for ids in found.sequences.tolist()]
            values: list[float] = found.sequences_scores.tolist()
            return [value * length**config.length_penalty for value, length in zip(values, lengths, strict=True)]
        each = self.model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        scored = torch.tensor([self._num_scored(ids) for ids in found.sequences.tolist()], device=each.device)
        counted = torch.arange(each.shape[1], device=each.device) < scored[:, None]
        totals: list[float] = each.masked_fill(~counted, 0.0).sum(1).tolist()
        return totals

    def _num_scored(self, ids: list[int]) -> int:
        """Number of generated tokens of a sequence, its end included, padding not."""
        end_id = self.target.end_id
        return ids.index(end_id, 1) if end_id in ids[1:] else len(ids) - 1

    def _hypothesis(self, ids: list[int], total: float) -> Hypothesis:
        own = ids[1 : self._num_scored(ids) + 1]
        is_cut = self.target.end_id not in own
        own = own if is_cut else own[:-1]
        before = list(self.target.before)
        return Hypothesis(own[len(before) :] if before and own[: len(before)] == before else own, total, is_cut)


@dataclass
class SearchCache:
    """The sources of the rows, and transformers' own cache."""

    memory: Memory
    past: Any

    def select(self, rows: Tensor) -> "SearchCache":
        """Return a cache of these rows, [R]; this one is used up."""
        self.past.reorder_cache(rows)
        return SearchCache(self.memory.select(rows), self.past)


@contextmanager
def eager_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Compute attention in the way that gives its weights, and restore the model's own afterwards."""
    before = attention_kind(model.config)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
