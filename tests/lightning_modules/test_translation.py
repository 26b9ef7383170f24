"""Translation keeps the contract with each kind of network, and avoids the traps of encoder-decoders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightrail.lightning_modules.networks.seq2seq.teacher_forcing import TeacherForcingConfig
from lightrail.lightning_modules.optimization import OptimConfig, build_optimizer
from lightrail.lightning_modules.optimization.layers import layer_numbers
from lightrail.lightning_modules.translation import Translation
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import NetworkContract, TaskContract, decoded, first_batch
from tests.support.tasks import translation


class TestTranslation(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return translation.settings(folder)

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


class TestRecurrentTranslation(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        return translation.settings(folder, translation.RECURRENT)

    def without_dropout(self) -> list[str]:
        return ["--model.network.dropout=0"]


def built(folder: Path, *more: str) -> Translation:
    model = TestRecurrentTranslation().experiment(folder, "--trainer.max_steps=1", *more).model
    assert isinstance(model, Translation)
    return model


def first(folder: Path) -> dict[str, Any]:
    return first_batch(TestRecurrentTranslation().experiment(folder, "--trainer.max_steps=1"))


def test_an_evaluation_reads_the_given_targets_however_training_does(tmp_path: Path) -> None:
    """Scheduled sampling at evaluation would make a loss of something else."""
    plain, sampled = (built(tmp_path, *more).eval() for more in ([], ["--model.teacher_forcing.last=0"]))
    sampled.load_state_dict(plain.state_dict())
    batch = first(tmp_path)
    assert sampled.loss(sampled(batch), batch)[0] == plain.loss(plain(batch), batch)[0]


def test_training_reads_its_own_tokens_as_often_as_the_schedule_says(tmp_path: Path) -> None:
    fractions = [TeacherForcingConfig(first=1.0, last=0.4).fraction(progress) for progress in (0.0, 0.5, 1.0)]
    assert fractions == pytest.approx([1.0, 0.7, 0.4])
    network = built(tmp_path).network.eval()
    batch = first(tmp_path)
    memory, given = network.encode(batch["input_ids"], batch["attention_mask"]), network.decoder_ids(batch["labels"])
    other = given.clone()
    other[:, 1:] = 3
    free = [network.score(memory, ids, forced_fraction=0.0) for ids in (given, other)]
    assert torch.equal(*free)
    assert not torch.equal(network.score(memory, given), network.score(memory, other))


def test_a_network_that_reads_all_tokens_at_once_refuses_a_schedule(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads all tokens of a target at once"):
        TestTranslation().experiment(tmp_path, "--trainer.max_steps=1", "--model.teacher_forcing.last=0.5")


@pytest.mark.parametrize("network", [translation.TRANSFORMER, translation.RECURRENT])
def test_tied_tables_are_one_parameter_and_decay_once(tmp_path: Path, network: list[str]) -> None:
    contract = TestTranslation() if network is translation.TRANSFORMER else TestRecurrentTranslation()
    experiment = contract.experiment(tmp_path, "--trainer.max_steps=1", "--model.network.is_tied=true")
    experiment.model.configure_model()
    optimizer = build_optimizer(experiment.model, OptimConfig(lr=0.1, weight_decay=0.5))
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len([*experiment.model.parameters()])
    names = [name for name, _ in experiment.model.named_parameters()]
    assert [name for name in names if "embedding" in name] == ["network.embedding.weight"]


def test_layers_of_encoder_and_decoder_are_told_apart(tmp_path: Path) -> None:
    depths = ["--model.network.encoder_depth=1", "--model.network.decoder_depth=3"]
    numbers = layer_numbers(TestTranslation().experiment(tmp_path, "--trainer.max_steps=1", *depths).model)
    ending = ".attention.out.weight"
    found = {name.removesuffix(ending): number for name, number in numbers.items() if name.endswith(ending)}
    assert found == {
        "network.encoder.blocks.0": 3,
        "network.decoder.blocks.0": 1,
        "network.decoder.blocks.1": 2,
        "network.decoder.blocks.2": 3,
    }


def test_the_best_texts_are_stored_with_their_scores(tmp_path: Path) -> None:
    model = built(tmp_path, "--model.decoding.num_best=2").eval()
    columns = decoded(model, first(tmp_path))
    assert [own[0] for own in columns["predictions"]] == columns["prediction"]
    assert {len(own) for own in columns["predictions"]} == {2}
    assert all(own == sorted(own, reverse=True) for own in columns["scores"])
    assert columns["text"] == first(tmp_path)["text"]
    responses = model.respond(columns["text"])
    assert [own[0][0] for own in responses] == columns["prediction"]


def test_a_long_source_is_cut_as_in_a_prediction(tmp_path: Path) -> None:
    model = built(tmp_path, "--data.max_length=4").eval()
    whole, cut = "ab c d", "ab "
    assert model.respond([whole]) == model.respond([cut])
