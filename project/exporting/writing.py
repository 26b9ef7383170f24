"""Export of trained models to folders that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import stored_configuration
from lightrail.lightning_modules.model_folder import DESCRIPTION, WEIGHTS, write_folder
from lightrail.lightning_modules.transfer.exported import load_exported, restore_task
from lightrail.project.basics.durable import UNFINISHED, sync
from lightrail.project.basics.errors import ConfigError
from lightrail.project.comparing.measuring import Estimate
from lightrail.project.exporting.card import model_card
from lightrail.project.exporting.onnx_folder import write_onnx
from lightrail.project.exporting.tokenizer_files import write_tokenizers
from lightrail.project.exporting.transformers_folder import write_transformers
from lightrail.project.models.stored_model import StoredModel
from lightrail.project.tracking.store import check_folder

Format = Literal["safetensors", "hf", "onnx"]


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse, before any computation, a folder that cannot be written or is not empty.

    Raises: ConfigError. `overwrite` allows the folder of an earlier export, and no other.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--output {target} is a file. Name a folder.")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise ConfigError(f"--output {target} is not empty. Name a new folder, or add --overwrite.")
        if not (target / DESCRIPTION).is_file():
            raise ConfigError(
                f"--output {target} contains files, but no {DESCRIPTION}: lightrail did not write it, and --overwrite "
                f"does not remove it. Name a new folder."
            )
    check_folder(target.absolute().parent, "--output")


def export(
    model: StoredModel,
    target: Path,
    export_format: Format,
    *,
    overwrite: bool = False,
    quantize: bool = False,
    repository: str | None = None,
    estimates: Mapping[str, Estimate] | None = None,
) -> None:
    """Write the model of a checkpoint to a folder, and verify it by reading it again.

    Args:
        quantize: whether the weights of an ONNX model are written as 8-bit integers.
        repository: `OWNER/NAME` on the hub, under which the card tells how to load the folder.
        estimates: test metrics with intervals, for the card.

    Raises: ConfigError when the format does not support this task, the folder is refused, or the verification fails.
    """
    check_target(target, overwrite=overwrite)
    task = restore_task(model.checkpoint, model.name).eval()
    other = None
    with _written_whole(target, overwrite=overwrite) as folder:
        if export_format == "safetensors":
            _write_task(model, task, folder)
        else:
            data = stored_configuration(model.checkpoint, model.name)["data"]
            described = {"task": model.checkpoint["task"], "format": export_format}
            if export_format == "hf":
                other = write_transformers(task, data, folder)
            else:
                other = write_onnx(task, data, folder, quantize=quantize)
                described["labels"] = task.data_facts().get("labels")
            (folder / DESCRIPTION).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
        card = model_card(model, task, target.name, other, estimates, repository)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _write_task(model: StoredModel, task: TaskModule, folder: Path) -> None:
    configuration = stored_configuration(model.checkpoint, model.name)
    write_tokenizers(configuration["data"], task.data_facts(), folder)
    write_folder(folder, model.checkpoint, task.state_dict(), type(task))
    read = load_exported(folder).state_dict()
    for name, expected in task.state_dict().items():
        if not torch.equal(read[name].nan_to_num(), expected.nan_to_num()):
            raise ConfigError(f"{folder / WEIGHTS}: {name} differs from the weights written. Check disk, export again.")


@contextmanager
def _written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Create a folder beside `target` that replaces it when the block succeeds, and is removed otherwise."""
    place = Path(os.path.realpath(target))  # a link stays, and leads to the new model
    folder = place.with_name(f".{place.name}{UNFINISHED}-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        yield folder
        _finish(folder)
        _put_in_place(folder, place, overwrite=overwrite)
        sync(place.parent)
    except OSError as error:
        raise ConfigError(
            f"--output {target}: {error.strerror or error}. Name a folder that may be written."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, place: Path, *, overwrite: bool) -> None:
    if not (overwrite and place.is_dir()):
        folder.rename(place)  # the system refuses it when a folder with files has been created meanwhile
        return
    replaced = place.with_name(f".{place.name}.replaced-{os.getpid()}")
    place.rename(replaced)
    try:
        folder.rename(place)
    except OSError:
        replaced.rename(place)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _finish(folder: Path) -> None:
    """Give all files the same permissions, and sync them to disk."""
    mode = (folder / DESCRIPTION).stat().st_mode
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)  # safetensors makes files that only their owner may read
            sync(file)
    sync(folder)
