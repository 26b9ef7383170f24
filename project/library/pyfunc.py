"""The MLflow model of a run: predicts for the rows of a table what `lightrail predict` gives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.reading import reading, regular_file
from lightrail.project.library.predictor import Predictor, load
from lightrail.project.logged_models.describing import ORIGIN, WEIGHTS

_MOST_BYTES = 2**20


@final
class LightrailModel(PythonModel):  # type: ignore[misc]  # a class without types
    """A model by MLflow's pyfunc flavor; it is read when MLflow loads it."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def load_context(self, context: PythonModelContext) -> None:
        """Read the checkpoint in the model's folder; without one there, that of the run, from the tracking store.

        Raises: ConfigError when there is none, or it cannot be read.
        """
        origin = Path(context.artifacts["run"])
        with reading(f"{origin} names no run", "Download the model again."):
            described = json.loads(regular_file(origin, ORIGIN, most_bytes=_MOST_BYTES).read_text(encoding="utf-8"))
            run_id, modules = str(described["run_id"]), [*map(str, described["modules"])]
        weights = origin.parents[1] / WEIGHTS
        named = str(weights) if weights.is_file() else f"runs:/{run_id}"
        self._predictor = load(named, tracking_uri=mlflow.get_tracking_uri(), allow_modules=modules)

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row for each row, as `lightrail predict` does; cells that are missing are left out.

        Raises: ConfigError, DataError for rows that cannot be predicted.
        """
        if self._predictor is None:
            raise ConfigError("the model has not been loaded. Load it with mlflow.pyfunc.load_model.")
        rows = [
            {str(name): value for name, value in row.items() if value is not None and value is not pd.NA}
            for row in model_input.to_dict(orient="records")
        ]
        return pd.DataFrame(self._predictor(rows))
