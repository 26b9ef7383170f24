"""Low-rank adapters: few weights are trained, the others stay, and the classifier keeps the contract with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import from_plain, to_plain
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.networks.adapters import LoraConfig
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.optimization import layer_numbers
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import NetworkContract, outputs_and_batch
from tests.support.pretrained import IDS, IS_TOKEN, encoded, write_tiny_bert, written
from tests.support.tasks.text_classification import TEXTS, write_texts

pytest.importorskip("peft", reason="needs lightrail[lora]")
RANK = 2


def is_adapter(name: str) -> bool:
    return "lora_" in name


def base_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if name.startswith("encoder.") and not is_adapter(name)
    }


class TestTextClassifierWithAdapters(NetworkContract):
    @pytest.fixture(autouse=True)
    def _bert(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.folder = write_tiny_bert(tmp_path_factory.getbasetemp() / "tiny-bert", TEXTS["train"] + TEXTS["test"])

    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={self.folder}"]
        adapters = [f"--model.encoder.lora.rank={RANK}", "--model.encoder.lora.dropout=0.1"]
        return [*write_texts(folder), *network, *adapters, f"--data.tokenizer={self.folder}"]

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.encoder.lora.dropout=0", "--model.dropout=0"]

    def test_every_trained_parameter_gets_a_gradient(self, tmp_path: Path) -> None:
        """After a step: adapters begin as a product with zero, and what that is multiplied by has no gradient yet."""
        arguments = ["--trainer.max_steps=1", "--data.batch.size=8", "--model.optim.warmup_fraction=0"]
        model = self.fit(tmp_path, *arguments).train()
        loss, _ = model.loss(*outputs_and_batch(model, self.experiment(tmp_path, *arguments)))
        loss.backward()  # type: ignore[no-untyped-call]
        trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
        assert [name for name, own in trained.items() if own.grad is None or not own.grad.any()] == []

    def test_only_adapters_and_head_are_trained(self, tmp_path: Path) -> None:
        arguments = ["--trainer.max_steps=30", "--model.optim.lr=0.01", "--model.optim.weight_decay=0.5"]
        before = self.experiment(tmp_path, *arguments).model
        after = self.fit(tmp_path, *arguments)
        trained = {name: own.numel() for name, own in after.named_parameters() if own.requires_grad}
        # In and out of two blocks' query, key, value and output (16 to 16) and hidden layer (16 to 32 and back).
        assert sum(size for name, size in trained.items() if is_adapter(name)) == 2 * RANK * (4 * 32 + 2 * 48)
        assert {name.partition(".")[0] for name in trained if not is_adapter(name)} == {"head"}
        for name, value in base_weights(before).items():
            assert torch.equal(after.get_parameter(name), value), name

    def test_freezing_by_pattern_still_counts(self, tmp_path: Path) -> None:
        pattern = r"encoder\.model\.encoder\.layer\.0\."
        model = self.experiment(tmp_path, "--trainer.max_steps=1", f"--model.optim.freeze=['{pattern}']").model
        numbers = layer_numbers(model)
        assert {numbers[name] for name, own in model.named_parameters() if own.requires_grad} == {2, 3}

    def test_a_checkpoint_needs_neither_arguments_nor_the_original_files(self, tmp_path: Path) -> None:
        model = self.fit(tmp_path, "--trainer.max_steps=2", keep=tmp_path / "kept")
        checkpoint = torch.load(tmp_path / "kept" / "step=2.ckpt", weights_only=True)
        checkpoint[TaskModule.CHECKPOINT_HYPER_PARAMS_KEY]["encoder"]["init_args"]["checkpoint"] = "gone"
        restored = type(model).from_checkpoint(checkpoint, "step=2.ckpt")
        assert all(torch.equal(own, model.state_dict()[name]) for name, own in restored.state_dict().items())


@pytest.fixture
def network(tmp_path: Path) -> PretrainedConfig:
    return PretrainedConfig(checkpoint=written(tmp_path / "network", "bert"), dropout=0)


def test_adapters_begin_by_changing_nothing(network: PretrainedConfig) -> None:
    plain, adapted = network.build([]).eval(), replace(network, lora=LoraConfig()).build([]).eval()
    assert torch.equal(encoded(adapted), encoded(plain))


def test_a_layer_adds_the_scaled_product_of_its_adapter(network: PretrainedConfig) -> None:
    encoder = replace(network, lora=LoraConfig(rank=2, alpha=6, target_modules=["query"])).build([]).eval()
    layer: Any = encoder.model.get_submodule("encoder.layer.1.attention.self.query")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # [R, in], [out, R]
    torch.nn.init.normal_(up)
    changed = encoded(encoder)
    with torch.no_grad():
        plain = network.build([]).eval()
        query: Any = plain.model.get_submodule("encoder.layer.1.attention.self.query")
        query.weight += 6 / 2 * up @ down
    torch.testing.assert_close(changed, encoded(plain))


def test_only_layers_of_the_names_given_get_an_adapter(network: PretrainedConfig) -> None:
    encoder = replace(network, lora=LoraConfig(target_modules=["query", "attention.output.dense"])).build([])
    adapted = {name.rpartition(".lora_")[0] for name, _ in encoder.named_parameters() if is_adapter(name)}
    layers = [f"model.encoder.layer.{layer}.attention" for layer in range(2)]
    assert adapted == {f"{layer}.{part}" for layer in layers for part in ("self.query", "output.dense")}


@pytest.mark.parametrize("name", ["roberta", "distilbert", "albert", "electra", "deberta-v2", "modernbert", "mpnet"])
def test_adapters_fit_every_kind_of_network(tmp_path: Path, name: str) -> None:
    config = PretrainedConfig(checkpoint=written(tmp_path, name), lora=LoraConfig(rank=1))
    encoder = config.build([])
    encoder(IDS, IS_TOKEN).square().sum().backward()
    trained = {key for key, own in encoder.named_parameters() if own.requires_grad}
    assert trained
    assert all(map(is_adapter, trained))
    restored = from_plain(to_plain(replace(encoder.config, checkpoint="gone"))).build([]).eval()
    restored.load_state_dict(encoder.state_dict())
    assert torch.equal(encoded(restored), encoded(encoder.eval()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"LoraConfig\.rank: expected a whole number of at least 1, found 0"),
        ({"alpha": 0.0}, r"LoraConfig\.alpha: expected a number above 0, found 0\.0"),
        ({"dropout": 1.0}, r"LoraConfig\.dropout: expected a number of at least 0 and below 1, found 1\.0"),
        (
            {"target_modules": ["query", "q_proj"]},
            r"no linear layer is called 'q_proj'\. Those of this network are dense, key, query, value\.",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused(network: PretrainedConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(network, lora=LoraConfig(**settings)).build([])
