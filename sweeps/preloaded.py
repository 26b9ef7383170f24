"""What every trial needs and imports late: imported once, by the process that trials are forked from."""

import importlib

import project.tracking.drawing  # noqa: F401
from project.tracking.store import calm_mlflow

calm_mlflow()
importlib.import_module("mlflow")
importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
