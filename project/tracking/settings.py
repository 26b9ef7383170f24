"""Where a run is recorded, under which name, and how often its state is kept.

Imports neither torch nor MLflow, so that `--help` stays fast.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from lightrail.project.basics.annotations import NaturalInt, NotNegative, PositiveInt, Ranged


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Ranged):
    """How often a run writes the state from which `lightrail resume` goes on, besides after each validation."""

    every_minutes: NotNegative = 10.0
    """Most minutes of training between two states, at least 0; 0 writes one after each optimizer step."""
    every_steps: PositiveInt | None = None
    """Also after every so many optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig(Ranged):
    """Text that a language model writes at each validation, kept in the run as `samples/generated.txt`."""

    prompts: tuple[str, ...] = ("",)
    """What the texts go on from. An empty one is the beginning of a document."""
    num_samples: NaturalInt = 1
    """Texts for each prompt. 0 writes none at all."""
    max_tokens: PositiveInt = 100
    """Most tokens of a text, at least 1. Validation takes the longer for it."""
    temperature: Annotated[float, Interval(ge=0, lt=math.inf)] = 0.8
    """Below 1 likely tokens become likelier, above 1 less so; 0 always takes the likeliest."""
    top_k: PositiveInt | None = None
    """Choose among this many of the likeliest tokens. null: among all."""
    seed: NaturalInt = 0
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
