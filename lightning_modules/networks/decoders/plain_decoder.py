"""The textbook's decoder: PyTorch's own Transformer layers under a causal mask, learned positions.

Shapes: B rows, T positions, N kept positions, V tokens, D width, H heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.networks.decoders.decoder import Decoder, DecoderConfig, TokenCache, filled
from lightrail.lightning_modules.networks.documents import document_mask, document_positions
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.project.basics.annotations import PositiveInt, ShareBelowOne
from lightrail.project.basics.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCALE = 0.02
"""Standard deviation of fresh weights, as in GPT-2."""


@dataclass(frozen=True, kw_only=True)
class PlainDecoderConfig(DecoderConfig):
    """PyTorch's Transformer layers under a causal mask, trained from scratch: GPT-2's architecture in any size."""

    width: PositiveInt = 256
    """Size of a position's vector; a multiple of `num_heads`."""
    depth: PositiveInt = 4
    """Number of layers, at least 1."""
    num_heads: PositiveInt = 4
    """Attention heads."""
    hidden_factor: PositiveInt = 4
    """Width of a layer's hidden layer, in widths."""
    dropout: ShareBelowOne = 0.0
    """Fraction of embeddings, attention, hidden states and each layer branch's output zeroed in training, in [0, 1)."""
    max_length: PositiveInt = 1024
    """Most tokens of a document: each of these positions has a vector of its own."""

    def build(self, num_tokens: int) -> "PlainDecoder":
        """Build the network. Raises: ConfigError when `width` is no multiple of `num_heads`."""
        if self.width % self.num_heads:
            raise ConfigError(f"decoder.width is {self.width}. Give a multiple of {self.num_heads}.")
        return PlainDecoder(num_tokens, self)


class PlainDecoder(Decoder):
    """Adds a token's vector and its position's, and passes them through `nn.TransformerEncoder`, causally masked."""

    config: PlainDecoderConfig
    max_length: int

    def __init__(self, num_tokens: int, config: PlainDecoderConfig) -> None:
        super().__init__()
        self.config, self.num_tokens, self.max_length = config, num_tokens, config.max_length
        self.tokens = nn.Embedding(num_tokens, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.num_heads,
            config.hidden_factor * config.width,
            config.dropout,
            activation=F.gelu,
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.width)
        self.layers = nn.TransformerEncoder(layer, config.depth, norm, enable_nested_tensor=False)
        self._start_weights()

    def forward(
        self,
        input_ids: Tensor,
        document_ids: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: TokenCache | None = None,
    ) -> Tensor:
        """Score the next token; see `Decoder.forward`."""
        num_new = input_ids.shape[1]
        if cache is not None:
            input_ids = cache.extend(input_ids)
        self.check_length(input_ids, document_ids, num_read=0)
        length = input_ids.shape[1]
        if document_ids is None:
            positions = torch.arange(length, device=input_ids.device)
            is_hidden = positions > positions[:, None]  # [T, T]
        else:
            positions = document_positions(document_ids)
            is_hidden = ~document_mask(document_ids).expand(-1, self.config.num_heads, -1, -1).flatten(0, 1)
        states = self.dropout(self.tokens(input_ids) + self.positions(positions))  # [B, T, D]
        states = self.layers(states, mask=is_hidden, is_causal=document_ids is None)[:, -num_new:]
        return F.linear(states if keep is None else states[keep], self.tokens.weight)

    def input_embedding(self) -> nn.Module:
        """Return the embedding of tokens; positions are added behind it."""
        return self.tokens

    def token_tables(self) -> Mapping[str, str]:
        """Return the name of the embedding, which is also the output."""
        return {"tokens.weight": "target"}

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the positions, which another network may have more or fewer of."""
        return {"positions.weight": (range(self.max_length),)}

    def start_cache(self) -> TokenCache:
        """Return a cache of tokens: PyTorch's layers expose no keys and values, so all are computed again."""
        return TokenCache()

    def to_transformers(self) -> "PreTrainedModel":
        """Return the same network as transformers' GPT-2."""
        return to_gpt2(self)

    def _start_weights(self) -> None:
        """Draw weights as GPT-2 does; `nn.TransformerEncoder` would start each layer with the same ones."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_added = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=_SCALE / math.sqrt(2 * self.config.depth) if is_added else _SCALE)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def to_gpt2(decoder: PlainDecoder) -> "PreTrainedModel":
    """Return a plain decoder as transformers' GPT-2, whose linear layers store their matrices transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = decoder.config
    settings = GPT2Config(
        vocab_size=decoder.num_tokens,
        n_positions=config.max_length,
        n_embd=config.width,
        n_layer=config.depth,
        n_head=config.num_heads,
        n_inner=config.hidden_factor * config.width,
        activation_function="gelu",
        bos_token_id=None,
        eos_token_id=None,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), config.dropout),
    )
    own = decoder.state_dict()
    weights = {
        "transformer.wte.weight": own["tokens.weight"],
        "transformer.wpe.weight": own["positions.weight"],
        "transformer.ln_f.weight": own["layers.norm.weight"],
        "transformer.ln_f.bias": own["layers.norm.bias"],
        "lm_head.weight": own["tokens.weight"],
    }
    names = {
        "ln_1.{}": "norm1.{}",
        "attn.c_attn.{}": "self_attn.in_proj_{}",
        "attn.c_proj.{}": "self_attn.out_proj.{}",
        "ln_2.{}": "norm2.{}",
        "mlp.c_fc.{}": "linear1.{}",
        "mlp.c_proj.{}": "linear2.{}",
    }
    for number in range(config.depth):
        for to, at in names.items():
            for kind in ("weight", "bias"):
                weight = own[f"layers.layers.{number}.{at.format(kind)}"]
                weights[f"transformer.h.{number}.{to.format(kind)}"] = weight.T if weight.ndim == 2 else weight
    return filled(GPT2LMHeadModel(settings), weights, decoder)
