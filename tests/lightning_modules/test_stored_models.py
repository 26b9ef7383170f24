"""Checkpoints and exported folders that are damaged, or of another program: refused in one line, and never run."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightrail.lightning_modules.arguments import to_plain
from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.model_folder import write_folder
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.lightning_modules.transfer.exported import load_exported, restore_task
from lightrail.project.basics.errors import ConfigError

Changes = Callable[[dict[str, Any]], Any]
ARGUMENTS = "hyper_parameters"


def checkpoint() -> dict[str, Any]:
    task = TextClassifier(["a", "b"], ["x", "y"], [1, 1], encoder=TransformerConfig(width=8, depth=1, num_heads=2))
    part = {"class_path": "x.Y", "init_args": {}}
    return {
        "task": f"{TextClassifier.__module__}.TextClassifier",
        ARGUMENTS: to_plain(dict(task.hparams)),
        "state_dict": task.state_dict(),
        "configuration": {"model": part, "data": part},
    }


def width(value: Any) -> Changes:
    return lambda own: own[ARGUMENTS]["encoder"]["init_args"].update(width=value)


OF_BOTH: list[tuple[Changes, str]] = [
    (lambda own: own.update(task=5), r"is not a checkpoint of a lightrail task|describes no task"),
    (lambda own: own.update(task="os.system"), r"needs the task 'os\.system', which cannot be imported"),
    (lambda own: own.update(task="lightrail.lightning_modules..x.Y"), r"which this version of lightrail lacks"),
    (lambda own: own.update({ARGUMENTS: []}), r"is damaged: its hyper_parameters is \[\]|describes no task"),
    (lambda own: own[ARGUMENTS].pop("labels"), r"cannot be rebuilt: .*labels"),
    (lambda own: own[ARGUMENTS].update(colour=1), r"cannot be rebuilt: .*colour"),
    (lambda own: own[ARGUMENTS].update(labels=3), ": its argument labels is 3, not a list"),
    (
        lambda own: own[ARGUMENTS].update(labels=["a", 3]),
        r": its argument labels is \['a', 3\], not a list \(each text\)",
    ),
    (lambda own: own[ARGUMENTS].update(encoder={"class_path": "os.X", "init_args": {}}), r"no settings class"),
    (width("wide"), r": TransformerConfig\.width: expected a whole number of at least 1, found \"wide\"\."),
    (width(None), r": TransformerConfig\.width: expected a whole number of at least 1, found null\."),
    (width([8]), r": TransformerConfig\.width: expected a whole number of at least 1, found \[8\]\."),
    (width(0), r"/?.+: .*width"),
    (width(16), r"cannot be rebuilt: size mismatch for "),
    (width(2 * 10**7), r"cannot be rebuilt: its arguments describe [\d,]+ weights, and it holds [\d,]+\."),
    (lambda own: own["state_dict"].pop("head.output.weight", None) or own["state_dict"].popitem(), r"Missing key"),
]


def test_a_checkpoint_whose_run_is_no_text_is_refused(tmp_path: Path) -> None:
    own = checkpoint()
    own["run"] = {"id": ["a"]}
    torch.save(own, tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match=r"own\.ckpt is damaged: its run is \{'id': \['a'\]\}"):
        read_checkpoint(tmp_path / "own.ckpt")


@pytest.mark.parametrize(("change", "message"), OF_BOTH)
def test_a_checkpoint_that_does_not_fit_together_is_refused(tmp_path: Path, change: Changes, message: str) -> None:
    own = checkpoint()
    change(own)
    torch.save(own, tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match=message) as refused:
        restore_task(read_checkpoint(tmp_path / "own.ckpt"), "own.ckpt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("change", "message"), OF_BOTH)
def test_an_export_that_does_not_fit_together_is_refused(tmp_path: Path, change: Changes, message: str) -> None:
    own = checkpoint()
    change(own)
    save_file(own["state_dict"], tmp_path / "model.safetensors")
    (tmp_path / "lightrail.json").write_text(json.dumps({**own, "state_dict": 0, "shared": {}}))
    with pytest.raises(ConfigError, match=message) as refused:
        load_exported(tmp_path)
    assert "\n" not in str(refused.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    own = checkpoint()
    torch.save(own, tmp_path / "own.ckpt")
    assert isinstance(restore_task(read_checkpoint(tmp_path / "own.ckpt"), "own.ckpt"), TextClassifier)
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", own, own["state_dict"], TextClassifier)
    assert isinstance(load_exported(tmp_path / "out"), TextClassifier)
    assert restore_task(read_checkpoint(tmp_path / "out"), "out").state_dict().keys() == own["state_dict"].keys()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def archive_of_zeros(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))


class Attack:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was run",)


def pickle_with_code(file: Path) -> None:
    torch.save({**checkpoint(), "extra": Attack()}, file)


def of_plain_lightning(file: Path) -> None:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", ARGUMENTS: {}}, file)


def weights_are_a_list(file: Path) -> None:
    torch.save({**checkpoint(), "state_dict": [1]}, file)


def without_weights(file: Path) -> None:
    torch.save({name: value for name, value in checkpoint().items() if name != "state_dict"}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"own\.ckpt is not a checkpoint that can be read: it is damaged"),
        (empty, r"own\.ckpt is not a checkpoint that can be read: it is damaged"),
        (lambda file: file.write_text("hello"), r"own\.ckpt is not a checkpoint that can be read: it is damaged"),
        (
            lambda file: (file.unlink(), file.mkdir()),
            r"own\.ckpt holds no exported model: lightrail\.json cannot be read",
        ),
        (archive_of_zeros, r"can be read: it would unpack to 1,000,000 bytes\. Name one"),
        (pickle_with_code, r"can be read: it is damaged, or holds objects that could run code, which is never done\."),
        (of_plain_lightning, r"own\.ckpt is not a checkpoint of a lightrail task\."),
        (weights_are_a_list, r"own\.ckpt is damaged: its state_dict is \[1\]\."),
        (without_weights, r"own\.ckpt is damaged: it has no state_dict\."),
        (pipe, r"own\.ckpt is a pipe; a file is needed\."),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    torch.save(checkpoint(), tmp_path / "own.ckpt")
    damage(tmp_path / "own.ckpt")
    with pytest.raises(ConfigError, match=message) as refused:
        read_checkpoint(tmp_path / "own.ckpt")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", [None, [], {"class_path": 5, "init_args": {}}, {"class_path": "x.Y"}])
def test_a_checkpoint_without_a_configuration_is_refused_where_one_is_needed(part: Any) -> None:
    own = checkpoint()
    own["configuration"] = {**own["configuration"], "data": part}
    with pytest.raises(ConfigError, match=r"own\.ckpt has no configuration of its data\. Name one"):
        stored_configuration(own, "own.ckpt")
