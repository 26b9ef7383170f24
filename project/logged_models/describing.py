"""The folder of an MLflow model of a run: small files alone, which refer to the run's checkpoint.

Its flavor is pyfunc by models-from-code: MLflow runs a file of three lines, and unpickles nothing. These files are
written as MLflow writes them, without importing mlflow.pyfunc, which loads the model to check it: that took 1.8 s.
"""

import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from lightrail.project.basics.tables import defined

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema

CODE = "lightrail_model.py"
CODE_TEXT = '''\
"""Predicts as `lightrail predict` does; MLflow runs this file when it loads the model."""

from mlflow.models import set_model

from lightrail.project.library.pyfunc import LightrailModel

set_model(LightrailModel())
'''
ORIGIN, WEIGHTS = "artifacts/run.json", "artifacts/best.ckpt"
"""The file that names the run, and a second name of the run's checkpoint, where the store is a folder."""
EXAMPLE, REQUEST = "input_example.json", "serving_input_example.json"
MOST_BYTES_OF_EXAMPLE = 100_000
"""Maximum size of an input example."""
_BUILD = ("pip", "setuptools", "wheel")


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What a model reads and what it answers with."""

    columns: Mapping[str, bool]
    """Columns that it reads, and whether a row must have each."""
    structured: Sequence[str]
    """Those whose values are no texts."""
    example: Sequence[Mapping[str, Any]] = ()
    """Rows of the validation split."""
    predictions: pa.Table | None = None
    """The predictions for the example; None where it has none."""


def write_model(folder: Path, run_id: str, modules: Sequence[str], answering: Answering) -> None:
    """Write the folder of a run's model, in place of an earlier one.

    Args:
        modules: modules of the user's own classes, which a process imports before it builds the model.
    """
    from mlflow.models import Model

    shutil.rmtree(folder, ignore_errors=True)
    (folder / ORIGIN).parent.mkdir(parents=True)
    (folder / CODE).write_text(CODE_TEXT, encoding="utf-8")
    (folder / ORIGIN).write_text(json.dumps({"run_id": run_id, "modules": list(modules)}), encoding="utf-8")
    _write_environment(folder)
    model = Model(
        run_id=run_id, signature=_signature(answering), saved_input_example_info=_write_example(folder, answering)
    )
    model.add_flavor(
        "python_function",
        artifacts={"run": {"path": ORIGIN, "uri": f"runs:/{run_id}"}},
        code=None,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=CODE,
        python_version=platform.python_version(),
        streamable=False,
    )
    model.save(str(folder / "MLmodel"))


def requirements() -> list[str]:
    """Return lightrail and what it needs, in the installed versions; no index of packages is asked."""
    names = {"lightrail", *_needed("lightrail")}
    return sorted(f"{name}=={version}" for name in names if (version := _version(name)))


def _needed(name: str) -> Iterator[str]:
    for requirement in importlib.metadata.requires(name) or ():
        if "extra ==" not in requirement.partition(";")[2]:
            yield re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]  # torch 2.9.0+cpu is found as 2.9.0
    except importlib.metadata.PackageNotFoundError:
        return None


def _write_environment(folder: Path) -> None:
    needed, python = requirements(), platform.python_version()
    (folder / "requirements.txt").write_text("".join(f"{own}\n" for own in needed), encoding="utf-8")
    build = [f"{name}=={version}" for name in _BUILD if (version := _version(name))]
    virtualenv = {"python": python, "build_dependencies": build, "dependencies": ["-r requirements.txt"]}
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": needed}],
    }
    for name, content in (("python_env.yaml", virtualenv), ("conda.yaml", conda)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _write_example(folder: Path, answering: Answering) -> dict[str, str] | None:
    """Write rows as an input example, and as a request to a server. Returns: how MLflow reads them; None without."""
    if not answering.example:
        return None
    columns = [name for name in answering.columns if any(name in row for row in answering.example)]
    table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in answering.example]}
    for name, content in ((EXAMPLE, table), (REQUEST, {"dataframe_split": table})):
        (folder / name).write_text(json.dumps(defined(content), ensure_ascii=False), encoding="utf-8")
    kind = {"type": "dataframe", "pandas_orient": "split"}
    return {"artifact_path": EXAMPLE, "serving_input_path": REQUEST, **kind}


def _signature(answering: Answering) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    inputs = Schema(
        [
            ColSpec(AnyType() if name in answering.structured else DataType.string, name, required=is_required)
            for name, is_required in answering.columns.items()
        ]
    )
    return ModelSignature(inputs, None if answering.predictions is None else schema_of(answering.predictions))


def schema_of(table: pa.Table) -> "Schema":
    """Return the types of a table's columns as MLflow names them."""
    from mlflow.types.schema import ColSpec, Schema

    return Schema([ColSpec(_type(field.type), field.name) for field in table.schema])


def _type(own: pa.DataType) -> Any:
    from mlflow.types.schema import AnyType, Array, DataType, Object, Property

    kinds = {
        pa.types.is_string: DataType.string,
        pa.types.is_boolean: DataType.boolean,
        pa.types.is_integer: DataType.long,
        pa.types.is_float32: DataType.float,
        pa.types.is_floating: DataType.double,
    }
    if (kind := next((kind for is_kind, kind in kinds.items() if is_kind(own)), None)) is not None:
        return kind
    if pa.types.is_list(own) and not isinstance(inner := _type(own.value_type), AnyType):
        return Array(inner)
    if pa.types.is_struct(own):
        fields = {field.name: _type(field.type) for field in own}
        if fields and not any(isinstance(kind, AnyType) for kind in fields.values()):
            return Object([Property(name, kind, required=False) for name, kind in fields.items()])
    return AnyType()
