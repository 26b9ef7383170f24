"""The training loss since the last logged step."""

import math

import torch
import torch.distributed
from torch import Tensor


class LossWindow:
    """Adds up the losses of training batches, each weighted by its number of targets, until a step is logged.

    The sum is no buffer of the task, which DDP would overwrite.
    """

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)
        self.num_targets = 0
        self.logged = torch.tensor(math.nan)
        """Mean over all processes at the last logged step."""

    def to(self, device: torch.device) -> None:
        """Move the sum to a device, as a copy: processes of ddp_spawn share the original."""
        self.total = self.total.to(device, copy=True)

    def add(self, mean: Tensor, num_targets: int) -> None:
        """Count a batch: its mean loss, and how many targets that is a mean over."""
        self.num_targets += num_targets
        self.total += mean.detach().double() * num_targets

    def mean(self) -> Tensor:
        """Return the mean loss of this process since the last logged step; just after it, the logged one."""
        return self.total / self.num_targets if self.num_targets else self.logged

    def close(self) -> Tensor:
        """Return the mean loss over all processes, all of which must call this, and start a new window."""
        total, num_targets = self.state()
        self.total.zero_()
        self.num_targets = 0
        self.logged = total / num_targets
        return self.logged

    def state(self) -> Tensor:
        """Return sum of losses and number of targets over all processes, all of which must call this, [2]."""
        state = torch.stack([self.total, self.total.new_tensor(self.num_targets)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(state)
        return state

    def restore(self, total: float, num_targets: float) -> None:
        """Continue from a state: on one process, or it would be counted once for each."""
        self.total, self.num_targets = torch.tensor(total, dtype=torch.float64), int(num_targets)
