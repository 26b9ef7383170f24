"""Where a run is recorded, under which name, and how often its state is kept.

Imports neither torch nor MLflow, so that `--help` stays fast.
"""

from dataclasses import dataclass, field

from lightrail.project.basics.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a run writes the state from which `lightrail resume` goes on, besides after each validation."""

    every_minutes: float = 10.0
    """Most minutes of training between two states, at least 0; 0 writes one after each optimizer step."""
    every_steps: int | None = None
    """Also after every so many optimizer steps."""

    def check(self) -> None:
        """Raises: ConfigError naming the setting that is out of range."""
        if self.every_minutes < 0:
            raise ConfigError(
                f"tracking.checkpoint.every_minutes is {self.every_minutes}. Give a number of at least 0."
            )
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigError(f"tracking.checkpoint.every_steps is {self.every_steps}. Give at least 1, or null.")


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Text that a language model writes at each validation, kept in the run as `samples/generated.txt`."""

    prompts: tuple[str, ...] = ("",)
    """What the texts go on from. An empty one is the beginning of a document."""
    num_samples: int = 1
    """Texts for each prompt. 0 writes none at all."""
    max_tokens: int = 100
    """Most tokens of a text, at least 1. Validation takes the longer for it."""
    temperature: float = 0.8
    """Below 1 likely tokens become likelier, above 1 less so; 0 always takes the likeliest."""
    top_k: int | None = None
    """Choose among this many of the likeliest tokens. null: among all."""
    seed: int = 0
    """Of the random choices, the same at each validation; the training's random numbers are not touched."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    uri: str | None = None
    """MLflow store: `sqlite:///FILE`, `postgresql://...` or the address of a server. Left out: the environment
    variable MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder."""
    experiment: str = "lightrail"
    """Name of the MLflow experiment that the run belongs to; created when missing."""
    run_name: str | None = None
    """Name shown for the run. Left out: MLflow makes one up."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of your own. Names that begin with `lightrail.` or `mlflow.` are reserved."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
