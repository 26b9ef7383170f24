"""Networks of tasks for ONNX.

Shapes: N texts, T positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.conversion.protocols import OnnxForm
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN, Encoder
from lightrail.project.basics.errors import ConfigError

_LENGTHS = (7, 5)
"""Numbers of tokens of the texts by which the network is traced."""


class _Called(nn.Module):
    """A network whose forward pass is a method of another one, which takes inputs by name."""

    def __init__(self, owner: nn.Module, call: Callable[..., Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.owner, self.call, self.names = owner, call, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output for inputs in the order of their names."""
        return self.call(**dict(zip(self.names, inputs, strict=True)))


def called(owner: nn.Module, call: Callable[..., Tensor], *names: str) -> nn.Module:
    """Return a network that calls a method of `owner` with inputs by name, given in this order."""
    return _Called(owner.eval(), call, names)


def text_form(
    owner: nn.Module, encoder: Encoder, call: Callable[..., Tensor], *, output: str, has_segments: bool = False
) -> OnnxForm:
    """Return the form of a network that reads token ids.

    Args:
        call: method of `owner` that takes `input_ids` and `attention_mask`, [N, T] int64, and the `token_type_ids` of
            pairs, which are `has_segments`.

    Raises: ConfigError for a network that reads the characters of words, or is an LSTM.
    """
    if getattr(encoder.config, "characters", None) is not None:
        raise ConfigError(
            "--format onnx: the network reads the characters of words (encoder.characters), which --format onnx does "
            "not prepare. Use --format safetensors."
        )
    if any(isinstance(part, nn.LSTM) for part in encoder.modules()):
        raise ConfigError(
            f"--format onnx: {type(encoder).__name__} has an LSTM, which torch's exporter writes for the length of one "
            f"text only. Use --format safetensors, or train with another network."
        )
    lengths = torch.tensor(_LENGTHS)
    mask = (torch.arange(max(_LENGTHS)) < lengths[:, None]).long()  # [N, T]
    input_ids = FIRST_TOKEN + torch.arange(mask.numel()).view_as(mask) % 3
    padding = encoder.neutral[0] if encoder.neutral and encoder.num_vectors else 0
    inputs = {"input_ids": input_ids.where(mask > 0, torch.tensor(padding)), "attention_mask": mask}
    if has_segments:
        inputs["token_type_ids"] = mask * (torch.arange(max(_LENGTHS)) > 3)
    return OnnxForm(called(owner, call, *inputs), inputs, tuple(inputs), output)
