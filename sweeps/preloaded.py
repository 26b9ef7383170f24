"""What every trial needs and imports late: imported once, by the process that trials are forked from."""

import gc
import importlib

import project.tracking.database
import project.tracking.drawing  # noqa: F401
from project.tracking.store import calm_mlflow

calm_mlflow()
for module in (
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
gc.collect()
gc.freeze()  # else every trial's garbage collector goes through all of it, and copies the memory that it lies in
