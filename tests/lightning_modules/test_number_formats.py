"""Half precision: what computes in float32 in spite of it, on machines with and without units for it."""

import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from torch import nn
from torchmetrics import MeanMetric

from lightrail.lightning_modules.metrics.evaluation import MeanLoss
from lightrail.lightning_modules.networks import number_formats
from lightrail.lightning_modules.networks.number_formats import at_least_float32, run_lstm
from lightrail.project.basics.catalogue import ROOT
from tests.support.tiny import Signs

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""What makes a processor with more do as one with AVX2 does."""
MIXED = """
import torch
from lightrail.lightning_modules.networks.images import ConvNetConfig
from lightrail.lightning_modules.networks.number_formats import has_autocast_lstm
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig

ids, words, pictures = torch.arange(1, 9).reshape(2, 4), list("abcdefghij"), torch.randn(2, 1, 8, 8)
for network, inputs in [
    (LstmConfig(width=8).build(words), (ids, ids > 0)),
    (TransformerConfig(width=8, depth=1, num_heads=2).build(words), (ids, ids > 0)),
    (TransformerDecoderConfig(width=8, depth=1, num_heads=2).build(10), (ids,)),
    (ConvNetConfig(channels=[2], width=8).build([1, 8, 8]), (pictures,)),
]:
    before = torch.get_rng_state()
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(*inputs)
    assert torch.equal(before, torch.get_rng_state()), "numbers would depend on the machine"
    found.float().square().sum().backward()
    assert all(own.grad is not None and own.grad.isfinite().all() for own in network.parameters()), network
    expected = network(*inputs)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max(), network
print(has_autocast_lstm("cpu", torch.bfloat16))
"""


def test_a_machine_without_half_precision_units_trains_every_network_in_mixed_precision() -> None:
    command = [sys.executable, "-c", MIXED]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **AVX2}, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_where_there_is_no_half_lstm_its_float32_states_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, states = nn.LSTM(8, 4, batch_first=True), torch.randn(2, 3, 8)
    exact = lstm(states)[0]
    monkeypatch.setattr(number_formats, "has_autocast_lstm", lambda *_: False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run_lstm(lstm, states), exact.bfloat16())
    assert torch.equal(run_lstm(lstm, states), exact)


def test_half_numbers_are_widened_and_wide_ones_stay() -> None:
    formats = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    widened = [at_least_float32(torch.ones(1, dtype=own)).dtype for own in formats]
    assert widened == [torch.float32, torch.float32, torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("precision", "expected"), [(HalfPrecision("bf16-true"), torch.bfloat16), (DoublePrecision(), torch.float64)]
)
def test_sums_of_metrics_stay_exact_whatever_the_weights_are(precision: Precision, expected: torch.dtype) -> None:
    model = Signs()
    temperature, norm = torch.tensor(1.2345678), nn.BatchNorm1d(2)
    model.register_buffer("temperature", temperature.clone())
    model.norm = norm
    precision.convert_module(model)
    assert {own.dtype for own in [*model.parameters(), norm.running_var] if own is not None} == {expected}
    assert torch.equal(model.get_buffer("temperature"), temperature)
    for loss in [2.0] * 50 + [0.5] * 150:
        model.val_loss.update(torch.tensor(loss), 300)
    assert float(model.val_loss.compute()) == 0.875


def test_the_sums_of_a_metric_that_is_not_ours_stay_as_they_were() -> None:
    model = Signs()
    model.mean, model.other_loss = MeanMetric(), MeanLoss()
    HalfPrecision("bf16-true").convert_module(model)
    formats = {model.mean.mean_value.dtype, model.other_loss.total.dtype}
    assert formats == {torch.float32, torch.float64}
