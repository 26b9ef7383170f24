"""Compiled training learns what uncompiled training learns."""

import shutil
from pathlib import Path

import pytest
import torch

from lightning_modules.base import TaskModule
from lightning_modules.networks.decoder import Decoder
from project.build import build
from project.configuration import parse

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what PyTorch itself does when it compiles
]


def trained(folder: Path, *more: str) -> TaskModule:
    text = folder / "text.txt"
    text.write_text("".join(f"line {number} of a text to learn\n" for number in range(200)), encoding="utf-8")
    network = ["--model.decoder.width=16", "--model.decoder.depth=1", "--model.decoder.num_heads=2"]
    data = [f"--data.path={text}", "--data.tokenizer=bytes", "--data.blocks.length=16", "--data.batch.size=4"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    run = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    experiment = build(parse(["--model=CausalLM", "--data=CausalLMData", *network, *data, *quiet, *run, *more]), "fit")
    experiment.trainer.callbacks = []  # type: ignore[attr-defined]
    experiment.trainer.fit(experiment.model, datamodule=experiment.data)
    return experiment.model


def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    plain, compiled = trained(tmp_path), trained(tmp_path, "--model.decoder.is_compiled=true")
    (network,) = (part for part in compiled.children() if getattr(part, "_compiled_call_impl", None))
    assert isinstance(network, Decoder)
    assert network.config.is_compiled
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], expected, rtol=1e-3, atol=1e-5, msg=name)
