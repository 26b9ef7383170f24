"""Compiled training learns what uncompiled training learns.

The decoder is compiled as far as to PyTorch's own operators, since a C++ compiler takes a minute for it; the smallest
encoder all the way, with the backend that training uses.
"""

import shutil
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch import nn

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.networks.decoders.decoder import Decoder
from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from tests.support.tasks.text_classification import write_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch itself does when it compiles


def decoder_of_bytes(folder: Path) -> list[str]:
    text = folder / "text.txt"
    text.write_text("".join(f"line {number} of a text to learn\n" for number in range(200)), encoding="utf-8")
    network = ["--model.decoder.width=16", "--model.decoder.depth=1", "--model.decoder.num_heads=2"]
    data = [f"--data.path={text}", "--data.tokenizer=bytes", "--data.blocks.length=16"]
    return ["--model=CausalLM", "--data=CausalLMData", *network, *data]


def encoder_of_words(folder: Path) -> list[str]:
    network = ["--model.encoder=TextCnnConfig", "--model.encoder.width=8", "--model.encoder.filter_widths=[2]"]
    data = ["--data.tokenizer=words", "--data.min_count=1"]
    return [*write_texts(folder), *data, *network, "--model.pooling=max"]


def trained(arguments: list[str], *more: str) -> TaskModule:
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    run = ["--trainer.max_steps=4", "--data.batch.max_tokens=null", "--data.batch.size=4"]
    experiment = build(parse([*arguments, *quiet, *run, *more]), "fit")
    experiment.trainer.callbacks = []  # type: ignore[attr-defined]
    experiment.trainer.fit(experiment.model, datamodule=experiment.data)
    return experiment.model


def test_a_decoder_that_is_compiled_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    arguments = [*decoder_of_bytes(tmp_path), "--trainer.val_check_interval=2"]
    compiled = trained(arguments, "--model.decoder.is_compiled=true")
    check_same(compiled, trained(arguments), Decoder)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a compiler")
def test_an_encoder_that_is_compiled_to_machine_code_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # each further process imports PyTorch again
    arguments = [*encoder_of_words(tmp_path), "--model.encoder.dropout=0", "--model.dropout=0"]
    compiled = trained(arguments, "--model.encoder.is_compiled=true")
    assert list((tmp_path / "compiled").rglob("*.so"))
    check_same(compiled, trained(arguments), Encoder)


def check_same(compiled: TaskModule, plain: TaskModule, kind: type[Encoder] | type[Decoder]) -> None:
    (network,) = (part for part in compiled.children() if getattr(part, "_compiled_call_impl", None))
    assert isinstance(network, kind)
    assert network.config.is_compiled
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], expected, rtol=1e-3, atol=1e-5, msg=name)
