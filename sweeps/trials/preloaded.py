"""Imports that every trial needs, made once by the process that trials are forked from."""

import gc
import importlib

from lightrail.project.tracking.store import calm_mlflow

gc.disable()
calm_mlflow()
for module in (
    "lightrail.sweeps.trials.trial",
    "lightrail.project.tracking.store",
    "lightrail.project.figures.drawing",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "PIL.BmpImagePlugin",
    "PIL.PngImagePlugin",
    "fsspec.implementations.chained",
    "pyarrow.pandas_compat",
    "torch.profiler",
    "torch.utils.serialization.config",
):
    importlib.import_module(module)
gc.freeze()  # else every trial's garbage collector visits all these objects, which copies their shared memory
gc.enable()
