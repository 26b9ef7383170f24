"""What a run holds before anything is trained."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightrail.project.basics.errors import ConfigError
from lightrail.project.provenance.recording import write_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAMS_PER_REQUEST = 100


def check_tags(tags: dict[str, str]) -> None:
    for name in tags:
        if name.startswith(("lightrail.", "mlflow.")):
            raise ConfigError(f"tracking.tags: names like {name!r} are reserved. Choose one with another beginning.")


@contextmanager
def unseeded() -> Iterator[None]:
    """MLflow makes up names with Python's generator: seeded for a run, that gives all runs of a seed one name."""
    state = random.getstate()
    random.seed()
    yield
    random.setstate(state)


def log_params(client: "MlflowClient", run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    items = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(items), MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=items[start : start + MAX_PARAMS_PER_REQUEST])


def write_first_files(folder: Path, configuration: dict[str, Any], identity: dict[str, str]) -> None:
    """Write the configuration, the environment and, beside the checkpoints to come, whose they are."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    text = json.dumps(identity, indent=2, ensure_ascii=False)
    (folder / "checkpoints" / "run.json").write_text(f"{text}\n", encoding="utf-8")
    write_environment(folder / "environment")
