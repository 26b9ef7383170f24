"""Takes words out of texts in training, so that no single one decides.

Shapes: N texts, T positions.
"""

import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.encoders.encoder import UNKNOWN
from lightrail.project.basics.errors import ConfigError


class TokenDropout(nn.Module):
    """Takes each token with a probability, in training only, for one that is not known.

    Args:
        share: that probability, in [0, 1).
        has_unknown: whether number 1 is the unknown token, as in a vocabulary of ours. A pretrained network is kept
            from looking at the token instead, except the first one, which often stands for the whole text.

    Source: M. Iyyer et al. (2015), "Deep Unordered Composition Rivals Syntactic Methods for Text Classification".
    """

    def __init__(self, share: float, *, has_unknown: bool) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ConfigError(f"model.token_dropout is {share}. Give a number in [0, 1).")
        self.share, self.has_unknown = share, has_unknown

    def forward(self, input_ids: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Give token numbers and where there are tokens, [N, T] each, with the dropped ones taken out."""
        if not self.training or not self.share:
            return input_ids, is_token
        is_dropped = is_token & (torch.rand(input_ids.shape, device=input_ids.device) < self.share)
        if self.has_unknown:
            return input_ids.masked_fill(is_dropped, UNKNOWN), is_token
        is_dropped[:, 0] = False
        return input_ids, is_token & ~is_dropped
