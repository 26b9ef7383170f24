"""Our decoders as networks of transformers: the same weights under other names."""

from typing import TYPE_CHECKING

from torch import Tensor

from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoder
from lightrail.lightning_modules.networks.decoders.transformer_decoder import NORM_EPSILON, TransformerDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTH_IF_ANY = 2048
"""Most positions that an exported network claims where ours claims none; rotary positions need no table."""


def to_llama(decoder: TransformerDecoder) -> "PreTrainedModel":
    """Restate a Transformer decoder as transformers' Llama."""
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
    return _filled(LlamaForCausalLM(settings), weights, decoder)


def to_gpt2(decoder: PlainDecoder) -> "PreTrainedModel":
    """Restate the textbook's decoder as transformers' GPT-2, whose linear layers hold their matrices transposed."""
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
    return _filled(GPT2LMHeadModel(settings), weights, decoder)


def _filled(
    model: "PreTrainedModel", weights: dict[str, Tensor], decoder: TransformerDecoder | PlainDecoder
) -> "PreTrainedModel":
    model.load_state_dict(weights)
    return model.to(next(decoder.parameters()).device).eval()
