"""Export of a task's network as ONNX, verified by onnxruntime."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.conversion.protocols import OnnxForm, OnnxTask
from lightrail.project.basics.errors import ConfigError, first_line
from lightrail.project.exporting.card import OtherLibrary
from lightrail.project.exporting.tokenizer_files import has_segments, tokenizer_of_data

NETWORK = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output if that is above 1."""
USE_TEXTS = """\
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
session = onnxruntime.InferenceSession("{folder}/model.onnx")
with open("{folder}/lightrail.json", encoding="utf-8") as file:
    labels = json.load(file)["labels"]
encoded = tokenizer.encode_batch(["TEXT", "ANOTHER TEXT"])
inputs = {"input_ids": [own.ids for own in encoded], "attention_mask": [own.attention_mask for own in encoded]}
inputs["token_type_ids"] = [own.type_ids for own in encoded]
names = [own.name for own in session.get_inputs()]
(outputs,) = session.run(None, {name: np.array(inputs[name], np.int64) for name in names})
print(outputs.shape, labels)"""
USE_PIXELS = """\
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/model.onnx")
with open("{folder}/lightrail.json", encoding="utf-8") as file:
    labels = json.load(file)["labels"]
shape = session.get_inputs()[0].shape[1:]  # channels, height, width; a value is 0 to 255
(outputs,) = session.run(None, {"pixels": np.zeros((1, *shape), np.float32)})
print(labels[outputs[0].argmax()])"""


def write_onnx(task: TaskModule, data: Mapping[str, Any], folder: Path, *, quantize: bool) -> OtherLibrary:
    """Write a network with any batch size and length, and its tokenizer, and compare its outputs by onnxruntime.

    Args:
        data: class path and arguments of the data, as they are stored.
        quantize: whether weights are written as 8-bit integers.

    Returns: how the folder is used, with the loss of quantization.

    Raises: ConfigError when the task has no such network, a package is missing, or outputs differ.
    """
    if not isinstance(task, OnnxTask):
        raise ConfigError(
            f"--format onnx writes classifiers, taggers and sentence encoders, and {type(task).__name__} is none. Use "
            "--format safetensors."
        )
    check_packages()
    form = task.onnx_form(has_segments=has_segments(data))
    if form.lengths:
        tokenizer = tokenizer_of_data(data, task.data_facts(), "onnx")
        tokenizer.enable_padding(pad_id=_padding(form))
        tokenizer.save(str(folder / "tokenizer.json"))
    _export(form, folder / NETWORK)
    greatest, _ = _differences(form, folder / NETWORK)
    if not greatest <= TOLERANCE:
        raise ConfigError(
            f"--format onnx: onnxruntime gives other outputs (they differ by up to {greatest:.3g}). Nothing was "
            "written. Use --format safetensors, and report this with the model's configuration."
        )
    limits = (
        [f"`{form.output}` are logits, divided by the calibration's temperature."] if form.output == "logits" else []
    )
    if quantize:
        limits.append(_quantized(form, folder))
    return OtherLibrary("onnx", USE_TEXTS if form.lengths else USE_PIXELS, limits, is_local=True)


def check_packages() -> None:
    """Refuse to write ONNX without its packages. Raises: ConfigError with the command that installs them."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {', '.join(missing)}. Install: pip install {' '.join(missing)}.")


def _export(form: OnnxForm, file: Path) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    sizes = [{0: batch, 1: length} if name in form.lengths else {0: batch} for name in form.inputs]
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                form.network,
                tuple(form.inputs.values()),
                str(file),
                input_names=[*form.inputs],
                output_names=[form.output],
                dynamic_shapes=(tuple(sizes),),
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:
        raise ConfigError(
            "--format onnx: torch's exporter cannot write this network for any batch size and length: "
            f"{first_line(error.__cause__ or error)}. Use --format safetensors."
        ) from error
    finally:
        exporter.setLevel(level)


def _quantized(form: OnnxForm, folder: Path) -> str:
    """Replace the network by one of 8-bit weights, and return what that changes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before, after = folder / NETWORK, folder / f"int8.{NETWORK}"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, by the root's logger, to preprocess for speed
    try:
        quantize_dynamic(str(before), str(after), weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
    sizes = before.stat().st_size, after.stat().st_size
    after.replace(before)
    greatest, mean = _differences(form, before)
    return (
        f"Weights are 8-bit integers ({sizes[1]:,} bytes, {sizes[0]:,} as float32). On made-up inputs outputs differ "
        f"from those of the float32 network by up to {greatest:.3g}, and by {mean:.3g} on average, relative to the "
        "largest."
    )


@torch.no_grad()
def _differences(form: OnnxForm, file: Path) -> tuple[float, float]:
    """Return the greatest and the mean difference between onnxruntime's outputs and the network's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst, means = 0.0, []
    for inputs in _probes(form):
        expected = form.network(*inputs.values())
        (outputs,) = session.run(None, {name: own.numpy() for name, own in inputs.items()})
        difference = (torch.from_numpy(outputs) - expected).abs()
        if "attention_mask" in inputs and difference.shape[:2] == inputs["attention_mask"].shape:
            difference = difference[inputs["attention_mask"] > 0]  # rows of padding are undefined
        difference = difference / max(1.0, float(expected.abs().max()))
        worst = max(worst, float(difference.max()))
        means.append(float(difference.mean()))
    return worst, sum(means) / len(means)


def _probes(form: OnnxForm) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs by which the network was written, and others of several sizes and lengths."""
    yield dict(form.inputs)
    for size, length in ((1, 1), (1, 12), (3, 4), (5, 9)):
        rows = torch.arange(size) % 2
        inputs = {name: own[rows] for name, own in form.inputs.items()}
        for name in form.lengths:
            repeated = inputs[name][:, :1].repeat(1, length)
            inputs[name] = torch.cat([repeated, inputs[name]], dim=1)[:, :length]
        yield inputs


def _padding(form: OnnxForm) -> int:
    return int(form.inputs["input_ids"][form.inputs["attention_mask"] == 0][0])
