"""Tasks and datamodules in a plain Trainer of Lightning: fit, validate, test and predict in any order."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.batches.blocks import BlockConfig
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.entities import EntityData
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.entities import EntityTagger
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError
from tests.support.tasks.entities import write_entities
from tests.support.tasks.text_classification import write_texts

BATCH = BatchConfig(size=4, max_tokens=None)
ENCODER = LstmConfig(width=8)
OPTIM = OptimConfig(lr=0.01, schedule="constant")


def files(folder: Path, write: Callable[[Path], list[str]]) -> dict[str, Any]:
    """Write data, and return its sources by argument."""
    settings = dict(own.removeprefix("--data.").split("=", 1) for own in write(folder) if "path=" in own)
    return {name: settings[name] for name in ("path", "validation_path", "test_path")}


def texts(folder: Path) -> TextClassificationData:
    return TextClassificationData(**files(folder, write_texts), tokenizer="words", min_count=1, batch=BATCH)


def classifier(folder: Path) -> tuple[DataModule, Callable[[DataModule], TaskModule]]:
    return texts(folder), lambda data: TextClassifier.for_facts(data.facts(), encoder=ENCODER, optim=OPTIM)


def tagger(folder: Path) -> tuple[DataModule, Callable[[DataModule], TaskModule]]:
    data = EntityData(**files(folder, write_entities), min_count=1, batch=BATCH)
    return data, lambda own: EntityTagger.for_facts(own.facts(), encoder=ENCODER, optim=OPTIM)


def language_model(folder: Path) -> tuple[DataModule, Callable[[DataModule], TaskModule]]:
    sources: dict[str, Any] = {}
    for name in ("path", "validation_path", "test_path"):
        (folder / f"{name}.txt").write_text("to be or not to be\nthat is\n", encoding="utf-8")
        sources[name] = str(folder / f"{name}.txt")
    decoder = TransformerDecoderConfig(width=8, depth=1, num_heads=2)
    data = CausalLMData(**sources, min_count=1, blocks=BlockConfig(length=8), batch=BATCH, encoding_processes=1)
    return data, lambda own: CausalLM.for_facts(own.facts(), decoder=decoder, optim=OPTIM)


def plain_trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_model_summary=False,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("make", [classifier, tagger, language_model])
def test_all_stages_of_a_plain_trainer(make: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, build = make(tmp_path)
    data.setup("fit")
    task = build(data)
    trainer = plain_trainer(tmp_path)
    trainer.fit(task, datamodule=data)
    assert "train/loss" in capfd.readouterr().out  # on the progress bar
    (validated,) = trainer.validate(task, datamodule=data, verbose=False)
    assert validated.keys() == task.validation_metrics()
    batches = trainer.predict(task, datamodule=data)
    assert sorted({number for batch in cast(Any, batches) for number in batch["id"]}) == list(
        range(len(data.dataset("test")))
    )
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    assert {"test/loss", *(f"test/{name}" for name in task.scores())} == tested.keys()
    assert trainer.test(task, data.test_dataloader(), verbose=False) == [tested]
    logged = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text("utf-8")
    assert {"train/loss", "val/loss", "test/loss"} <= set(logged.splitlines()[0].split(","))
    parameters = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text("utf-8"))
    assert parameters["optim"]["init_args"]["lr"] == 0.01
    checkpoint = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    again = type(task).load_from_checkpoint(checkpoint)
    assert plain_trainer(tmp_path).test(again, datamodule=make(tmp_path)[0], verbose=False) == [tested]


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_new_data_is_encoded_as_the_task_was_trained(tmp_path: Path) -> None:
    own = texts(tmp_path)
    own.setup("fit")
    task = TextClassifier.for_facts(own.facts(), encoder=ENCODER)
    (tmp_path / "new.txt").write_text("a new film\ngood\n", encoding="utf-8")
    new = TextClassificationData(str(tmp_path / "new.txt"), tokenizer="words", batch=BATCH)
    trainer = plain_trainer(tmp_path)
    for _ in range(2):
        batches = trainer.predict(task, datamodule=new)
        found = [text for batch in cast(Any, batches) for text in batch["text"]]
        assert found == ["good", "a new film"]  # the shortest first
    assert new.facts() == task.data_facts()
    with pytest.raises(ConfigError, match="texts to predict are encoded as the task was trained"):
        TextClassificationData(str(tmp_path / "new.txt")).setup("predict")
    rows = "".join(f"x {number},{number % 2}\n" for number in range(40))
    (tmp_path / "other.csv").write_text("text,label\n" + rows, encoding="utf-8")
    other = TextClassificationData(str(tmp_path / "other.csv"), tokenizer="words", min_count=1)
    other.setup("fit")
    with pytest.raises(ConfigError, match="set up for another task than TextClassifier: vocabulary, labels"):
        trainer.test(task, datamodule=other, verbose=False)
    with pytest.raises(ConfigError, match=r"TextClassifier needs `.*` from the data"):
        TextClassifier.for_facts({})
