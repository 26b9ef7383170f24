"""A bidirectional LSTM layer over padded sequences.

Shapes: B sequences, T positions, D width.
"""

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.number_formats import run_lstm


class LstmLayer(nn.Module):
    """A bidirectional LSTM layer, [B, T, I] to [B, T, D]; I is D unless `input_width` is given.

    The second direction reads each example reversed within its own length: padding comes last for both and reaches no
    state of a token. Padded tensors are several times faster on a CPU than packed sequences, which oneDNN refuses.
    """

    def __init__(self, width: int, input_width: int | None = None) -> None:
        super().__init__()
        self.rightward = nn.LSTM(input_width or width, width // 2, batch_first=True)
        self.leftward = nn.LSTM(input_width or width, width // 2, batch_first=True)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Read states, [B, T, I], in both directions; `lengths`, [B], are without padding."""
        right = run_lstm(self.rightward, states)  # [B, T, D / 2]
        left = run_lstm(self.leftward, reverse_each(states, lengths))
        return torch.cat([right, reverse_each(left, lengths)], dim=-1)


def reverse_each(states: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first `lengths` positions of each example and leave its padding where it is.

    Args:
        states: [B, T, ...].
        lengths: [B].

    >>> reverse_each(torch.tensor([[1, 2, 3, 0]]), torch.tensor([3])).tolist()
    [[3, 2, 1, 0]]
    """
    positions = torch.arange(states.shape[1], device=states.device)  # [T]
    mirrored = lengths[:, None] - 1 - positions  # [B, T]
    places = torch.where(mirrored >= 0, mirrored, positions)
    return states.gather(1, places.view(*places.shape, *[1] * (states.ndim - 2)).expand_as(states))
