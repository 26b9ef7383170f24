"""A trained model from Python: what `lightrail predict` and `lightrail generate` give, as values."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias, final, overload

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.model_folder import can_predict
from lightrail.project.basics.errors import ConfigError, Refusal, first_line, shown
from lightrail.project.basics.hardware import set_threads
from lightrail.project.commands.generate import usual_options, written
from lightrail.project.commands.predict import answers_of, saved_for_path
from lightrail.project.configuration import Configuration, parse
from lightrail.project.library.calling import calling
from lightrail.project.library.resident import MOST_INPUTS, engine_of
from lightrail.project.library.runs import Named, name_of, store_of
from lightrail.project.library.settings import Settings, allowing, plain_settings
from lightrail.project.models.engine import Engine
from lightrail.project.models.generating import ResponseModel, TextModel, load_text_model
from lightrail.project.running.build import Experiment, build_again, build_resident
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.training.checkpoints import seed_all

Inputs: TypeAlias = Sequence[str] | Sequence[Mapping[str, Any]] | pd.DataFrame | pa.Table | os.PathLike[str]
"""Texts, rows, a table, or a file in any format that `data.path` may have."""


_GIVEN = "texts.txt"
"""A file that stands for inputs in memory, which the data is asked for its settings with."""
_ONE_PROCESS = {"trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto"}
"""Settings of the training that are replaced: further processes would start the program again."""


@final
class Predictor:
    """A trained model, which is read at its first prediction and stays in memory.

    Args:
        checkpoint: its file, or an exported folder; one for transformers can only generate text.
        saved: the configuration stored in the checkpoint; None for a folder without one.
        settings: plain values that replace stored ones.
        modules: modules of the caller's own classes.
    """

    def __init__(
        self, checkpoint: Path, saved: dict[str, Any] | None, settings: Mapping[str, Any], modules: Sequence[str]
    ) -> None:
        self.checkpoint = checkpoint
        self._saved, self._settings, self._modules = saved, settings, modules
        self._experiment: Experiment | None = None
        self._engine: Engine | None = None
        self._writer: TextModel | ResponseModel | None = None

    @overload
    def __call__(self, inputs: str) -> dict[str, Any]: ...  # type: ignore[overload-overlap]  # a text is a sequence

    @overload
    def __call__(self, inputs: Inputs) -> list[dict[str, Any]]: ...

    def __call__(self, inputs: str | Inputs) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the rows that `lightrail predict` writes as JSON lines: one for a text, else a list, in order.

        Raises: ConfigError, DataError for inputs that cannot be predicted.
        """
        rows: list[dict[str, Any]] = self.table([inputs] if isinstance(inputs, str) else inputs).to_pylist()
        return rows[0] if isinstance(inputs, str) else rows

    def table(self, inputs: Inputs) -> pa.Table:
        """Return the predictions as a table, whose `to_pandas()` is a data frame. Raises: ConfigError, DataError."""
        with calling(shows_lines=False):
            if isinstance(inputs, os.PathLike):
                return self._predicted(os.fspath(inputs))
            if (found := self._in_memory(inputs)) is not None:
                return found
            with TemporaryDirectory(prefix="lightrail-") as folder:
                try:
                    return self._predicted(str(self._written(inputs, Path(folder))))
                except Refusal as error:  # of a row that the caller knows by its number, not by a file
                    raise type(error)(str(error).replace(f"{folder}{os.sep}", "")) from error

    @property
    def task(self) -> TaskModule:
        """The trained task, a LightningModule, in evaluation mode. Raises: ConfigError."""
        from lightrail.lightning_modules.transfer.exported import restore_task

        if self._experiment is not None:
            return self._experiment.model.eval()
        return restore_task(read_checkpoint(self.checkpoint), str(self.checkpoint)).eval()

    def generate(
        self,
        prompt: str,
        *,
        num_samples: int = 1,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        chat: bool = False,
    ) -> list[str]:
        """Return the texts that `lightrail generate` writes for a prompt; the arguments are its options.

        Args:
            max_tokens: None: 200; of a model that writes a text for another, as it is configured.

        Raises: ConfigError for a model that writes no text, or an argument that is out of range or not for this model.
        """
        usual = usual_options()
        options = argparse.Namespace(
            num_samples=num_samples,
            max_tokens=usual.max_tokens if max_tokens is None else max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=list(stop),
            seed=seed,
            chat=chat,
        )
        with calling(shows_lines=False):
            set_threads()
            if self._writer is None:
                self._writer = load_text_model(str(self.checkpoint.absolute()), TrackingConfig())
            return written(self._writer, prompt, options)

    def _predicted(self, path: str) -> pa.Table:
        table = answers_of(build_again(self._resident(), self._configuration(path)))
        assert table is not None, "a process of its own has all rows"
        return table

    def _resident(self) -> Experiment:
        """Return the model with its data and trainer, which are built at the first call. Raises: ConfigError."""
        if self._experiment is None:
            experiment = build_resident(self._configuration(_GIVEN), self.checkpoint)
            self._experiment, self._engine = experiment, engine_of(experiment)
        return self._experiment

    def _in_memory(self, inputs: Any) -> pa.Table | None:
        """Return the predictions for texts or mappings. None: only a Trainer gives them, or the message without rows.

        Raises: ConfigError, DataError.
        """
        if not isinstance(inputs, Sequence) or not 0 < len(inputs) <= MOST_INPUTS:
            return None
        are_texts = all(isinstance(own, str) for own in inputs)
        if not are_texts and not all(isinstance(own, Mapping) for own in inputs):
            return None
        experiment = self._resident()
        if self._engine is None:
            return None
        set_threads()
        seed_all([experiment.configuration.seed])
        rows = self._engine.encode(inputs if are_texts else [json.loads(line) for line in _json_lines(inputs)])
        if rows is None:
            return None
        if experiment.model.eval().device != (device := experiment.trainer.strategy.root_device):
            experiment.model.to(device)  # a Trainer leaves it on the CPU
        return self._engine.table(rows)

    def _configuration(self, path: str) -> Configuration:
        if self._saved is None:
            raise ConfigError(
                f"{self.checkpoint} has no data side, as a folder for transformers, or one that version 0.1 exported: "
                "it can only generate text. Export the run again with --format safetensors."
            )
        settings = {**_ONE_PROCESS, **self._settings, "data.path": path}
        return parse(allowing(self._modules), saved=saved_for_path(self._saved, path), settings=settings)

    def _written(self, inputs: Any, folder: Path) -> Path:
        """Write inputs to a file that `data.path` can name. Raises: ConfigError for others."""
        if isinstance(inputs, pd.DataFrame):
            inputs = pa.Table.from_pandas(inputs, preserve_index=False)
        if isinstance(inputs, pa.Table):
            pyarrow.parquet.write_table(inputs, folder / "rows.parquet")
            return folder / "rows.parquet"
        if isinstance(inputs, Sequence) and all(isinstance(own, str) for own in inputs):
            if not any(ending in own for own in inputs for ending in "\n\r\ufeff"):
                file = folder / _GIVEN
                file.write_text("".join(f"{own}\n" for own in inputs), encoding="utf-8", errors="surrogatepass")
                return file
            inputs = [{self._text_column(): own} for own in inputs]
        if not isinstance(inputs, Sequence) or not all(isinstance(own, Mapping) for own in inputs):
            raise ConfigError(
                f"the inputs are {shown(inputs)}. Give a text, a list of texts, a list of mappings, a table of pandas "
                f"or PyArrow, or the pathlib.Path of a file."
            )
        (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in _json_lines(inputs)), encoding="utf-8")
        return folder / "rows.jsonl"

    def _text_column(self) -> str:
        """Return the column that a file of texts has. Raises: ConfigError when the data has several."""
        columns = self._configuration(_GIVEN).data().columns("predict")  # type: ignore[attr-defined]
        names = list(columns.values() if isinstance(columns, Mapping) else columns)
        if len(names) != 1:
            raise ConfigError(
                f"the model reads {len(names)} columns ({', '.join(names)}). Give a mapping for each row."
            )
        return str(names[0])


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each row as a line of JSON. Raises: ConfigError for values that are not plain."""
    try:
        return [json.dumps(dict(row)) for row in rows]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a row cannot be written as JSON: {first_line(error)}. Give plain values.") from error


def load(
    model: Named,
    settings: Settings | None = None,
    *,
    tracking_uri: str | None = None,
    allow_modules: Sequence[str] = (),
) -> Predictor:
    """Return the predictor of a trained model: that of a run, by its best checkpoint, or of a checkpoint.

    Args:
        model: a run as `fit` returned it, or any name that `lightrail predict` takes, such as a run's id, the folder of
            an export, or `models:/NAME@ALIAS`; for `generate` also a folder that transformers wrote.
        settings: values that replace those of the training, such as `{"data.batch.size": 64, "device": "cpu"}`.
        tracking_uri: MLflow store; None: that of the run object, else MLFLOW_TRACKING_URI, else mlflow.db here.
        allow_modules: modules of your own task or network.

    Raises: ConfigError when there is no such model, or it cannot be read.
    """
    with calling(shows_lines=False):
        values, modules = plain_settings(settings)
        uri = values.get("tracking.uri", tracking_uri or store_of([model]))
        checkpoint = find_checkpoint(name_of(model), TrackingConfig(uri=uri))
        is_for_text = checkpoint.is_dir() and not can_predict(checkpoint)
        saved = None if is_for_text else stored_configuration(read_checkpoint(checkpoint), str(checkpoint))
        return Predictor(checkpoint, saved, values, [*allow_modules, *modules])
