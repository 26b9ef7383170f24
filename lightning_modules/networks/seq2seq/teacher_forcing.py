"""How often training reads the given token of a target, and how often the one that the network found likeliest."""

from dataclasses import dataclass

import lightning.pytorch as pl

from lightrail.lightning_modules.networks.seq2seq.network import Seq2SeqConfig
from lightrail.project.basics.annotations import Ranged, Share
from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TeacherForcingConfig(Ranged):
    """How often training reads the given token of a target, and not the one that the network found likeliest.

    Source: S. Bengio et al. (2015), "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".
    """

    first: Share = 1.0
    """Fraction of positions that read the given token at the first step, in [0, 1]."""
    last: Share = 1.0
    """That fraction at the last step; between the two it changes evenly."""

    @property
    def is_always(self) -> bool:
        """Whether each position reads the given token."""
        return self.first == self.last == 1

    def fraction(self, progress: float) -> float:
        """Return the fraction after this part of the training, in [0, 1]."""
        return self.first + (self.last - self.first) * min(1.0, progress)

    def current(self, task: pl.LightningModule) -> float:
        """Return the fraction at the current step of a task's training."""
        if self.is_always:
            return 1.0
        return self.fraction(task.global_step / max(1, task.trainer.estimated_stepping_batches))

    def check(self, network: Seq2SeqConfig) -> None:
        """Refuse a network that reads all tokens of a target at once. Raises: ConfigError."""
        if not self.is_always and not network.reads_token_by_token:
            raise ConfigError(
                f"model.teacher_forcing: {type(network).__name__} reads all tokens of a target at once, so that it "
                "cannot read its own in training. Leave it out, or choose RecurrentSeq2SeqConfig."
            )
