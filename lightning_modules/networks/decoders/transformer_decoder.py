"""A Transformer decoder from scratch, as Llama is built: RMS norms, rotary positions, gated hidden layers, no biases.

Shapes: B rows, T positions, N kept positions, V tokens, D width, H heads, K key/value heads, E = D / H.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from lightrail.lightning_modules.networks.attention import (
    BlockCache,
    KeyValueCache,
    SelfAttention,
    rotary_angles,
    rotary_tables,
)
from lightrail.lightning_modules.networks.decoders.decoder import Decoder, DecoderConfig, filled
from lightrail.lightning_modules.networks.documents import document_mask, document_positions
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne
from lightrail.project.basics.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORM_EPSILON = 1e-6
_SCALE = 0.02
"""Standard deviation of fresh weights."""


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig(DecoderConfig):
    """A Transformer decoder trained from scratch: Llama's architecture in any size."""

    width: PositiveInt = 256
    """Size of a position's vector; a multiple of 2 x `num_heads`."""
    depth: PositiveInt = 4
    """Number of blocks, at least 1."""
    num_heads: PositiveInt = 4
    """Attention heads."""
    num_key_value_heads: PositiveInt | None = None
    """Heads of keys and values, which divide `num_heads`: fewer make generation faster. null: `num_heads`."""
    hidden_width: PositiveInt | None = None
    """Width of a block's gated hidden layer. null: 8/3 x `width`, which has as many weights as an ungated layer of 4 x
    `width`, rounded to a multiple of 16."""
    dropout: ShareBelowOne = 0.0
    """Fraction of embeddings and of each block branch's output zeroed in training, in [0, 1)."""
    rope_theta: Annotated[float, Gt(1)] = 10000.0
    """Base of the rotary positions' wavelengths, above 1; longer texts want a larger one."""
    is_tied: bool = True
    """Score tokens with the embedding's own weights rather than with a second table."""
    max_length: PositiveInt | None = None
    """Most tokens of a document; more are refused. null: any number."""

    def build(self, num_tokens: int) -> "TransformerDecoder":
        """Build the network. Raises: ConfigError when `num_heads` does not fit the other sizes."""
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"decoder.width is {self.width}. Give a multiple of 2 x num_heads = {2 * self.num_heads}."
            )
        if self.num_heads % (self.num_key_value_heads or 1):
            raise ConfigError(
                f"decoder.num_key_value_heads is {self.num_key_value_heads}. Give a number that divides num_heads = "
                f"{self.num_heads}, or null."
            )
        return TransformerDecoder(num_tokens, self)

    def hidden_size(self) -> int:
        """Return the width of a block's hidden layer."""
        return self.hidden_width or max(1, round(self.width / 6)) * 16


class TransformerDecoder(Decoder):
    """Embeds tokens, lets each position attend to itself and those before it, and scores the next token."""

    config: TransformerDecoderConfig

    def __init__(self, num_tokens: int, config: TransformerDecoderConfig) -> None:
        super().__init__()
        self.config, self.num_tokens, self.max_length = config, num_tokens, config.max_length
        self.head_width = config.width // config.num_heads
        self.embedding = nn.Embedding(num_tokens, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPSILON)
        self.output = None if config.is_tied else nn.Linear(config.width, num_tokens, bias=False)
        self._start_weights()

    def forward(
        self,
        input_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Score the next token; see `Decoder.forward`."""
        num_read = 0 if cache is None else cache.length
        self.check_length(input_ids, document_ids, num_read)
        if document_ids is None:
            positions = torch.arange(num_read, num_read + input_ids.shape[1], device=input_ids.device)  # [T]
            mask = _mask_behind(num_read, positions)
        else:
            positions, mask = document_positions(document_ids), document_mask(document_ids)
        tables = rotary_tables(rotary_angles(positions, self.head_width, self.config.rope_theta))
        states = self.dropout(self.embedding(input_ids))  # [B, T, D]
        for number, block in enumerate(self.blocks):
            read = None if cache is None else cache.blocks[number]
            states = block(states, tables, mask, mask is None and num_read == 0, read)
        states = self.norm(states if keep is None else states[keep])
        return F.linear(states, self.embedding.weight if self.output is None else self.output.weight)

    def token_tables(self) -> Mapping[str, str]:
        """Return the names of embedding and output."""
        return dict.fromkeys(["embedding.weight", *([] if self.output is None else ["output.weight"])], "target")

    def start_cache(self) -> KeyValueCache:
        """Return an empty cache of each block's keys and values."""
        return KeyValueCache(self.config.depth)

    def to_transformers(self) -> "PreTrainedModel":
        """Return the same network as transformers' Llama."""
        return to_llama(self)

    def _start_weights(self) -> None:
        """Draw weights as GPT-2 does: the more blocks add to the states, the smaller is what each adds.

        Source: A. Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_added = name.endswith(("attention.out.weight", "hidden_out.weight"))
                nn.init.normal_(weight, std=_SCALE / math.sqrt(2 * self.config.depth) if is_added else _SCALE)


class DecoderBlock(nn.Module):
    """Self-attention and a gated hidden layer, each on normed input and added to what came in.

    Source of the gate: N. Shazeer (2020), "GLU Variants Improve Transformer".
    """

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden_size()
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.attention = SelfAttention(width, config.num_heads, config.num_key_value_heads or config.num_heads)
        self.hidden_norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.gate_and_hidden = nn.Linear(width, 2 * hidden, bias=False)
        self.hidden_out = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: Tensor,
        tables: tuple[Tensor, Tensor],
        mask: Tensor | None,
        is_causal: bool,
        cache: BlockCache | None,
    ) -> Tensor:
        """Add attention and hidden layer to states, [B, T, D] to the same; see `SelfAttention.forward`."""
        attended = self.attention(self.attention_norm(states), tables, mask, is_causal, cache)
        states = states + self.dropout(attended)
        gate, hidden = self.gate_and_hidden(self.hidden_norm(states)).chunk(2, dim=-1)
        out: Tensor = states + self.dropout(self.hidden_out(F.silu(gate) * hidden))
        return out


def _mask_behind(num_read: int, positions: Tensor) -> Tensor | None:
    """Return what each new position sees of all positions so far, [T, S]; None where it needs no mask."""
    if num_read == 0 or len(positions) == 1:
        return None
    return torch.arange(num_read + len(positions), device=positions.device) <= positions[:, None]


_LENGTH_IF_ANY = 2048
"""Most positions stated by an exported network where ours states none; rotary positions need no table."""


def to_llama(decoder: TransformerDecoder) -> "PreTrainedModel":
    """Return a Transformer decoder as transformers' Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = decoder.config
    asked = config.num_key_value_heads or config.num_heads
    settings = LlamaConfig(
        vocab_size=decoder.num_tokens,
        hidden_size=config.width,
        intermediate_size=config.hidden_size(),
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        num_key_value_heads=asked,
        max_position_embeddings=config.max_length or _LENGTH_IF_ANY,
        rms_norm_eps=NORM_EPSILON,
        tie_word_embeddings=config.is_tied,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=None,
        eos_token_id=None,
    )
    own = decoder.state_dict()
    output = "embedding.weight" if config.is_tied else "output.weight"
    weights = {
        "model.embed_tokens.weight": own["embedding.weight"],
        "model.norm.weight": own["norm.weight"],
        "lm_head.weight": own[output],
    }
    sizes = [config.width, asked * decoder.head_width, asked * decoder.head_width]
    for number in range(config.depth):
        at, to = f"blocks.{number}", f"model.layers.{number}"
        query, key, value = own[f"{at}.attention.query_key_value.weight"].split(sizes)
        gate, hidden = own[f"{at}.gate_and_hidden.weight"].chunk(2)
        weights |= {
            f"{to}.input_layernorm.weight": own[f"{at}.attention_norm.weight"],
            f"{to}.self_attn.q_proj.weight": query,
            f"{to}.self_attn.k_proj.weight": key,
            f"{to}.self_attn.v_proj.weight": value,
            f"{to}.self_attn.o_proj.weight": own[f"{at}.attention.out.weight"],
            f"{to}.post_attention_layernorm.weight": own[f"{at}.hidden_norm.weight"],
            f"{to}.mlp.gate_proj.weight": gate,
            f"{to}.mlp.up_proj.weight": hidden,
            f"{to}.mlp.down_proj.weight": own[f"{at}.hidden_out.weight"],
        }
    return filled(LlamaForCausalLM(settings), weights, decoder)
