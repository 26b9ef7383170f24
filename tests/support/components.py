"""Small classes for configurations in tests to name, and things that no configuration may name."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

from lightrail.lightning_modules.arguments import FromData

run_in_shell = os.system


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ABC):
    @abstractmethod
    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class WideConfig(NetworkConfig):
    width: int = 8
    """Hidden units, at least 1."""
    depth: int = 2

    def build(self) -> nn.Module:
        return nn.Linear(self.width, self.depth)


@dataclass(frozen=True, kw_only=True)
class NamedConfig(NetworkConfig):
    name: str
    depth: int = 3
    inner: NetworkConfig | None = None

    def build(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    kind: Literal["cosine", "linear"] = "cosine"


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    rate: float = 1e-3
    """Peak learning rate."""
    schedule: ScheduleConfig = ScheduleConfig()
    extra: dict[str, Any] = field(default_factory=dict)


class Tagger(LightningModule):
    """A task in all that matters to a configuration."""

    def __init__(
        self,
        labels: FromData[list[str]],
        *,
        network: NetworkConfig = WideConfig(width=16),
        step: StepConfig = StepConfig(),
        dropout: float = 0.1,
        layers: tuple[int, ...] = (1, 2),
        networks: list[NetworkConfig] | None = None,
        on_start: Callable[[str], int] | None = None,
        anything: Any = None,
        cell: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}


class Lines(LightningDataModule):
    def __init__(self, path: str = "lines.txt", max_tokens: int | None = None) -> None:
        super().__init__()
        self.path, self.max_tokens = path, max_tokens


class Recorder(Callback):
    def __init__(self, every: int = 1) -> None:
        self.every = every


class Hooked(Callback):
    def __init__(
        self,
        several: list[Callable[[], None]] | None = None,
        named: dict[str, Callable[[], None]] | None = None,
        kinds: list[type[nn.Module]] | None = None,
        kind: type | None = None,
        pauses: list[timedelta] | None = None,
    ) -> None:
        self.several, self.named, self.kinds, self.kind, self.pauses = several, named, kinds, kind, pauses
