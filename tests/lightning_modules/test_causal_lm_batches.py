"""What a language model makes of a batch, with batches written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightrail.lightning_modules.base import Batch
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.heads.next_tokens import NO_TARGET
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.project.basics.errors import ConfigError

DOCUMENTS = [[0, 3, 4, 5, 1], [0, 5, 1], [0, 2, 2, 3, 4, 5, 4, 3, 1], [0, 1]]
"""Each from its start, 0, to its end, 1."""
DECODERS = [
    TransformerDecoderConfig(width=16, depth=2, num_heads=2, num_key_value_heads=1),
    PlainDecoderConfig(width=16, depth=2, num_heads=2, max_length=16),
]


def model(decoder: DecoderConfig = DECODERS[0], **settings: Any) -> CausalLM:
    torch.manual_seed(0)
    built = CausalLM({"size": 6}, decoder=decoder, **settings).eval()
    with torch.no_grad():  # fresh weights are so small that every loss is about the same
        for parameter in built.parameters():
            parameter.mul_(8)
    return built


def rows_of(documents: list[list[int]]) -> Batch:
    """A row for each document."""
    longest = max(map(len, documents)) - 1
    inputs = [own[:-1] + [0] * (longest + 1 - len(own)) for own in documents]
    labels = [own[1:] + [NO_TARGET] * (longest + 1 - len(own)) for own in documents]
    return batch_of(inputs, labels, [len(own) - 2 for own in documents])


def packed(documents: list[list[int]], num_padding: int = 0) -> Batch:
    """All documents in one row."""
    inputs = [token for own in documents for token in own[:-1]] + [0] * num_padding
    labels = [token for own in documents for token in own[1:]] + [NO_TARGET] * num_padding
    numbers = [number for number, own in enumerate(documents) for _ in own[1:]] + [len(documents)] * num_padding
    batch = batch_of([inputs], [labels], [sum(len(own) - 2 for own in documents)])
    return {**batch, "document_ids": torch.tensor([numbers])}


def batch_of(inputs: list[list[int]], labels: list[list[int]], lengths: list[int]) -> Batch:
    return {
        "id": list(range(len(inputs))),
        "input_ids": torch.tensor(inputs),
        "labels": torch.tensor(labels),
        "num_targets": sum(label != NO_TARGET for own in labels for label in own),
        "num_characters": lengths,
        "num_bytes": [3 * length for length in lengths],
        "text": ["字" * length for length in lengths],
        "is_filler": False,
    }


@pytest.mark.parametrize("decoder", DECODERS, ids=["ours", "plain"])
@pytest.mark.parametrize("num_padding", [0, 3])
def test_packed_documents_cost_what_each_costs_alone(decoder: DecoderConfig, num_padding: int) -> None:
    task = model(decoder)
    batch = packed(DOCUMENTS, num_padding)
    mean, num_targets = task.loss(task(batch), batch)
    alone = [task.loss(task(own), own) for own in (rows_of([document]) for document in DOCUMENTS)]
    assert num_targets == sum(number for _, number in alone)
    assert mean.item() * num_targets == pytest.approx(sum(own.item() * number for own, number in alone), rel=1e-5)


def test_documents_of_a_block_do_not_see_each_other() -> None:
    task = model()
    batch = packed(DOCUMENTS)
    without = {name: value for name, value in batch.items() if name != "document_ids"}
    assert task.loss(task(batch), batch)[0].item() != pytest.approx(
        task.loss(task(without), without)[0].item(), rel=1e-3
    )


def test_columns_are_those_computed_by_hand() -> None:
    task, batch = model(), rows_of(DOCUMENTS)
    columns = task.decode(task(batch), batch)
    for place, document in enumerate(DOCUMENTS):
        logits = task.decoder(torch.tensor([document[:-1]]))[0]
        targets = torch.tensor(document[1:])
        loss = F.cross_entropy(logits, targets).item()
        assert columns["loss"][place] == pytest.approx(loss, rel=1e-5)
        assert columns["score"][place] == pytest.approx(math.exp(-loss), rel=1e-5)
        assert columns["num_targets"][place] == len(targets)
        assert columns["num_correct"][place] == int((logits.argmax(-1) == targets).sum())
    assert (columns["text"], columns["num_bytes"]) == (batch["text"], batch["num_bytes"])


def test_only_targets_count_wherever_they_stand() -> None:
    task, batch = model(), rows_of(DOCUMENTS[:1])
    whole = task(batch).losses
    batch["labels"] = torch.tensor([[NO_TARGET, 4, NO_TARGET, 1]])
    batch["num_targets"] = 2
    outputs = task(batch)
    torch.testing.assert_close(outputs.losses, whole[[1, 3]])
    assert task.loss(outputs, batch)[0].item() == pytest.approx(whole[[1, 3]].mean().item())
    task.observe(outputs, batch)
    positions = task.loss_by_position.compute()[:, 0]
    assert positions.tolist() == [2, 4]


def test_a_batch_without_a_target_costs_nothing() -> None:
    task, batch = model().train(), rows_of([[0, 3, 1]])
    batch["labels"], batch["num_targets"] = torch.full_like(batch["labels"], NO_TARGET), 0
    mean, num_targets = task.loss(task(batch), batch)
    mean.backward()  # type: ignore[no-untyped-call]
    assert (mean.item(), num_targets) == (0, 0)
    assert task.decode(task(batch), batch)["loss"] == [0]


def test_labels_are_smoothed_in_training_alone() -> None:
    plain, smoothed, batch = model(), model(label_smoothing=0.3), rows_of(DOCUMENTS)
    evaluated = [task.loss(task(batch), batch)[0].item() for task in (plain, smoothed)]
    assert evaluated[0] == evaluated[1]
    smoothed.train()
    outputs = smoothed(batch)
    expected = F.cross_entropy(outputs.logits, outputs.targets, label_smoothing=0.3)
    assert smoothed.loss(outputs, batch)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != pytest.approx(evaluated[1], rel=1e-3)
    with pytest.raises(ConfigError, match=r"model\.label_smoothing: expected a number .* below 1, found 1\.0"):
        model(label_smoothing=1.0)


@pytest.mark.parametrize("decoder", DECODERS, ids=["ours", "plain"])
def test_layers_of_the_decoder_are_told_apart(decoder: DecoderConfig) -> None:
    numbers = layer_numbers(model(decoder))
    assert {number for name, number in numbers.items() if ".norm" not in name} == {0, 1, 2}
    assert all(number == 0 for name, number in numbers.items() if "embedding" in name or "tokens" in name)


def test_a_checkpoint_brings_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = {"size": 6, "start_id": 0, "end_id": 1, "json": '{"字": [1, 2]}'}
    own = CausalLM(tokenizer, decoder=DECODERS[0])
    checkpoint: dict[str, Any] = {"state_dict": own.state_dict()}
    own.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    restored = CausalLM.load_from_checkpoint(tmp_path / "own.ckpt")
    assert restored.hparams["tokenizer"] == tokenizer
    assert restored.decoder.config == DECODERS[0]
