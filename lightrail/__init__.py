"""Tracked, reproducible language-model experiments on Lightning, Optuna and MLflow.

    import lightrail

    run = lightrail.fit("text_classification", {"data.path": "reviews.csv", "epochs": 3})
    print(run.metrics, lightrail.load(run)("a text"))

Everything is imported when it is first used. `docs/python.md` says what is stable.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightrail.datamodules.base import DataModule as DataModule
    from lightrail.datamodules.batches.batching import BatchConfig as BatchConfig
    from lightrail.datamodules.batches.sampling import SamplingConfig as SamplingConfig
    from lightrail.datamodules.reading import Row as Row
    from lightrail.datamodules.settings import ReadingConfig as ReadingConfig
    from lightrail.datamodules.settings import SplitConfig as SplitConfig
    from lightrail.lightning_modules.arguments import FromData as FromData
    from lightrail.lightning_modules.base import TaskModule as TaskModule
    from lightrail.lightning_modules.heads.head import Head as Head
    from lightrail.lightning_modules.heads.joint import JointHead as JointHead
    from lightrail.lightning_modules.metrics.scores import Score as Score
    from lightrail.lightning_modules.metrics.scores import StoredScore as StoredScore
    from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig as DecoderConfig
    from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig as GenerationConfig
    from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig as EncoderConfig
    from lightrail.lightning_modules.optimization import OptimConfig as OptimConfig
    from lightrail.project.basics.errors import ConfigError as ConfigError
    from lightrail.project.basics.errors import DataError as DataError
    from lightrail.project.basics.errors import Diverged as Diverged
    from lightrail.project.library.predictor import Predictor as Predictor
    from lightrail.project.library.predictor import load as load
    from lightrail.project.library.runs import Run as Run
    from lightrail.project.library.runs import check as check
    from lightrail.project.library.runs import compare as compare
    from lightrail.project.library.runs import fit as fit
    from lightrail.project.library.runs import resume as resume
    from lightrail.project.library.runs import runs as runs
    from lightrail.sweeps.library import FinishedSweep as FinishedSweep
    from lightrail.sweeps.library import sweep as sweep

_HOMES = {
    "datamodules.base": ("DataModule",),
    "datamodules.batches.batching": ("BatchConfig",),
    "datamodules.batches.sampling": ("SamplingConfig",),
    "datamodules.reading": ("Row",),
    "datamodules.settings": ("ReadingConfig", "SplitConfig"),
    "lightning_modules.arguments": ("FromData",),
    "lightning_modules.base": ("TaskModule",),
    "lightning_modules.networks.decoders.generation": ("GenerationConfig",),
    "lightning_modules.heads.head": ("Head",),
    "lightning_modules.heads.joint": ("JointHead",),
    "lightning_modules.metrics.scores": ("Score", "StoredScore"),
    "lightning_modules.networks.decoders.decoder": ("DecoderConfig",),
    "lightning_modules.networks.encoders.encoder": ("EncoderConfig",),
    "lightning_modules.optimization": ("OptimConfig",),
    "project.basics.errors": ("ConfigError", "DataError", "Diverged"),
    "project.library.predictor": ("Predictor", "load"),
    "project.library.runs": ("Run", "check", "compare", "fit", "resume", "runs"),
    "sweeps.library": ("FinishedSweep", "sweep"),
}
"""Names by the module that defines them."""
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "testing":  # which needs pytest
        return importlib.import_module("lightrail.testing")
    if name not in _MODULES:
        raise AttributeError(f"module 'lightrail' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"lightrail.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "testing"})
