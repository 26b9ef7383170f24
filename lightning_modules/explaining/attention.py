"""The attention of any network: of ours as it is computed, of pretrained ones as transformers returns it.

Shapes: B rows, H heads, K key/value heads, T positions of queries, S positions of keys, E width of a head.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightrail.lightning_modules.explaining.explanation import Alignment, AttentionHeads, Explanation
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import PretrainedDecoder
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedEncoder
from lightrail.lightning_modules.networks.seq2seq.network import Seq2Seq
from lightrail.lightning_modules.networks.seq2seq.pretrained import PretrainedSeq2Seq, eager_attention
from lightrail.lightning_modules.networks.token_network import TokenNetwork
from lightrail.project.basics.errors import ConfigError

MOST_SHOWN = 32
"""Maximum number of positions of a map: of a longer text the first ones are shown."""


def attention_heads(network: TokenNetwork, read: Callable[[], Any], tokens: Sequence[str]) -> Iterator[AttentionHeads]:
    """Yield the maps of all heads in the first row that a network reads; nothing for one without attention.

    Args:
        read: runs the network, in evaluation mode.
        tokens: the text of each position; those of further windows come after them.
    """
    with torch.no_grad(), recorded_attention(network) as layers:
        read()
    yield from _maps("Attention", layers, tokens, tokens)


@torch.no_grad()
def encoder_decoder_attention(
    network: Seq2Seq,
    source: tuple[Tensor, Tensor],
    decoder_ids: Tensor,
    targets: Sequence[str],
    sources: Sequence[str],
    note: str,
) -> Iterator[Explanation]:
    """Yield the alignment of a target with its source, and the maps of all heads of a network that has some.

    Args:
        network: in evaluation mode.
        source: token ids, and where there are tokens, [1, S] each.
        decoder_ids: what the decoder reads, [1, T]; see `Seq2Seq.decoder_ids`.
        targets, sources: the texts of the tokens that are written, T, and read, S.
        note: of the alignment.
    """
    memory = network.encode(*source)
    yield Alignment(
        title="Alignment of source and target",
        note=note,
        rows=targets,
        columns=sources,
        weights=finite(network.attention(memory, decoder_ids)[0]).float().tolist(),
    )
    if isinstance(network, PretrainedSeq2Seq):
        with eager_attention(network.model):
            named = {"input_ids": source[0], "attention_mask": source[1].long(), "decoder_input_ids": decoder_ids}
            outputs = network.model(**named, output_attentions=True, use_cache=False)
        encoder, decoder, across = outputs.encoder_attentions, outputs.decoder_attentions, outputs.cross_attentions
    else:
        with _Recorder() as reading:
            network.encode(*source)
        with _Recorder() as writing:
            network.score(memory, decoder_ids)
        # A block of a decoder attends to the target, and then to the source.
        encoder, decoder, across = reading.layers, writing.layers[::2], writing.layers[1::2]
    yield from _maps("Attention of the encoder", encoder, sources, sources)
    read = ["<start>", *targets[:-1]]
    yield from _maps("Attention of the decoder to what is written", decoder, targets, read, "token that is written")
    yield from _maps("Attention of the decoder to the source", across, targets, sources, "token that is written")


def _maps(
    title: str, layers: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str], row: str = "token that looks"
) -> Iterator[AttentionHeads]:
    """Yield the weights of layers, [B, H, T, S] each, in the first row of the batch; nothing without layers."""
    if not layers:
        return
    height, width = (
        min(*sizes, MOST_SHOWN) for sizes in zip(map(len, (rows, columns)), layers[0].shape[2:], strict=True)
    )
    notes = [f"A row is the {row}, a column what it looks at."]
    if len(rows) > height or len(columns) > width:
        notes.append(
            f"The first {height} of {len(rows)} rows and {width} of {len(columns)} columns; other weights are left out."
        )
    yield AttentionHeads(
        title=f"{title} by layer and head, {len(layers)} x {layers[0].shape[1]}",
        note=" ".join(notes),
        rows=rows[:height],
        columns=columns[:width],
        layers=[finite(own[0, :, :height, :width]).float().tolist() for own in layers],
    )


def finite(values: Tensor) -> Tensor:
    """Return values of a network, which are finite. Raises: ConfigError when they are not."""
    if not values.isfinite().all():
        raise ConfigError("the network's scores are not finite: its weights are damaged. Name another checkpoint.")
    return values


@contextmanager
def recorded_attention(network: TokenNetwork) -> Iterator[list[Tensor]]:
    """Collect the weights of each layer's self-attention, [B, H, T, S], while the network reads."""
    if isinstance(network, PretrainedEncoder | PretrainedDecoder):
        with _returned_attention(network.model) as layers:
            yield layers
    else:
        with _Recorder() as recorder:
            yield recorder.layers


@contextmanager
def _returned_attention(model: Any) -> Iterator[list[Tensor]]:
    layers: list[Tensor] = []

    def ask(_: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**named, "output_attentions": True}

    def keep(_: nn.Module, __: tuple[Any, ...], outputs: Any) -> None:
        layers.extend(own for own in getattr(outputs, "attentions", None) or () if own is not None)

    with eager_attention(model):
        hooks = [model.register_forward_pre_hook(ask, with_kwargs=True), model.register_forward_hook(keep)]
        try:
            yield layers
        finally:
            for hook in hooks:
                hook.remove()


class _Recorder(TorchFunctionMode):
    """Computes the weights of each call of scaled dot-product attention again, which returns none.

    `nn.MultiheadAttention` returns its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.layers.append(attention_weights(*args[:2], **(kwargs or {})))
        elif func is F.multi_head_attention_forward:  # what it calls in turn is not seen here
            states, weights = func(*args, **{**(kwargs or {}), "need_weights": True, "average_attn_weights": False})
            assert weights is not None
            self.layers.append(weights)
            return states, weights
        return func(*args, **(kwargs or {}))


def attention_weights(
    query: Tensor, key: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False, **_: Any
) -> Tensor:
    """Return the weights with which `F.scaled_dot_product_attention` adds up values, without dropout, [B, H, T, S].

    Args:
        query: [B, H, T, E].
        key: [B, K, S, E]; H / K neighbouring heads of the query share one.
        attn_mask: true where a key may be seen, broadcast to [B, H, T, S].
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    return scores.softmax(-1)
