"""The sentence encoder keeps the contract, with dropout: steps, processes and metrics are those of the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightrail.lightning_modules.heads.joint import _Part, joint_head
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.project.training.checkpoints import place_checkpoints
from lightrail.testing.contract import NetworkContract, TaskContract, processes
from tests.support.pretrained import write_tiny_bert
from tests.support.tasks import sentences
from tests.support.tasks.sentences import PAIRS, write_pairs


class Sentences:
    """What the contract asks of a task whose predictions are vectors, and random in no step that it compares."""

    def without_dropout(self) -> list[str]:
        return []  # masks belong to examples: a step is the same with them

    def answers(self, columns: dict[str, Any]) -> list[Any]:
        """The largest component of each vector."""
        return [int(np.argmax(vector)) for vector in columns["vector"]]

    def is_learned(self, columns: dict[str, Any]) -> bool:
        similarities = np.stack(columns["vector"]) @ np.stack(columns["pair_vector"]).T
        return bool((similarities.argmax(1) == np.arange(len(similarities))).all())


class TestSentenceEncoder(Sentences, TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return sentences.settings(folder)

    def test_a_validation_gives_the_scores_of_its_decoded_columns(self, tmp_path: Path) -> None:
        checkpoint = self.checkpoint(tmp_path)
        experiment = self.experiment(tmp_path, "--trainer.max_steps=1", "--data.batch.size=2", checkpoint=checkpoint)
        experiment.trainer.validate(experiment.model, datamodule=experiment.data, verbose=False)
        scores = {name: score for name, score in experiment.model.val_scores().items() if name != "loss"}
        sums = ScoreSums(scores)
        sums.update(experiment.model.late_columns)
        logged = {name: float(experiment.trainer.callback_metrics[f"val/{name}"]) for name in scores}
        assert sums.compute() == pytest.approx(logged)
        assert joint_head(experiment.model) is not None
        assert len(experiment.model.late_columns["rank"]) == len(PAIRS["validation"])


class TestSentenceEncoderWithScoresAndATable(Sentences, NetworkContract):
    """The fastest encoder, which learns from the scores of pairs."""

    def settings(self, folder: Path) -> list[str]:
        data = ["--data.learns=scores", "--data.score_column=score"]
        return [*write_pairs(folder), *data, "--model.encoder.width=16", "--model.encoder.dropout=0.2"]

    def is_learned(self, columns: dict[str, Any]) -> bool:
        similarities = (np.stack(columns["vector"]) * np.stack(columns["pair_vector"])).sum(1)
        scores = np.array([number % 5 for number in range(len(PAIRS["train"]))])
        by_text = {text: score for (text, _), score in zip(PAIRS["train"], scores, strict=True)}
        own = np.array([by_text[text] for text in columns["text"]])
        lower = own[:, None] < own[None]
        return bool((similarities[:, None] < similarities[None])[lower].all())


class TestSentenceEncoderWithHardNegativesAndABert(Sentences, NetworkContract):
    @pytest.fixture(autouse=True)
    def _bert(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        texts = [text for split in ("train", "test") for pair in PAIRS[split] for text in pair]
        self.folder = write_tiny_bert(tmp_path_factory.getbasetemp() / "tiny-bert-of-pairs", texts)

    def settings(self, folder: Path) -> list[str]:
        rows = write_pairs(folder, negative=["a dog", "the cat", "a park is red"])
        network = ["--model.encoder=PretrainedConfig", f"--model.encoder.checkpoint={self.folder}"]
        data = [f"--data.tokenizer={self.folder}", "--data.negative_column=negative", "--model.is_symmetric=true"]
        return [*rows, *network, *data, "--model.pooling=first", "--model.similarity=dot", "--model.temperature=1"]


@pytest.mark.parametrize(
    ("size", "accumulation", "devices", "learns"),
    [(2, 4, 1, "pairs"), (8, 1, 2, "pairs"), (8, 1, 3, "texts"), (3, 3, 2, "pairs")],
)
def test_a_step_with_dropout_is_the_same_to_a_millionth_however_it_is_divided(
    tmp_path: Path, size: int, accumulation: int, devices: int, learns: str
) -> None:
    contract = TestSentenceEncoder()
    arguments = [
        "--trainer.max_steps=1",
        "--model.optim.optimizer=sgd",
        "--model.optim.lr=1",
        f"--data.learns={learns}",
    ]
    arguments += ["--model.optim.warmup_fraction=0", "--trainer.gradient_clip_val=null", "--model.encoder.dropout=0.3"]
    arguments += ["--trainer.limit_val_batches=0", f"--data.learns={learns}"]
    whole = contract.fit(tmp_path, *arguments)
    before = contract.experiment(tmp_path, *arguments).model
    divided = contract.fit(
        tmp_path,
        *arguments,
        f"--data.batch.size={size}",
        f"--trainer.accumulate_grad_batches={accumulation}",
        *(processes(devices) if devices > 1 else []),
    )
    moved, apart = (
        max(float((a - b).detach().abs().max()) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
        for other in (before, divided)
    )
    assert moved > 0.1
    assert apart <= 1e-6 * moved


def test_what_an_interrupted_training_left_of_a_step_is_no_part_of_the_next_one(tmp_path: Path) -> None:
    contract = TestSentenceEncoder()
    arguments = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.batch.size=2"]
    arguments += ["--trainer.accumulate_grad_batches=2"]
    untouched, interrupted = (contract.experiment(tmp_path, *arguments) for _ in range(2))
    left = _Part({}, [], {"vectors": torch.ones(1, 2, 16), "id": torch.tensor([99]), "keys": torch.tensor([[1, 2]])})
    interrupted.model._joint_step._earlier.append(left)  # of a micro-batch before the last one of its step
    for number, experiment in enumerate((untouched, interrupted)):
        place_checkpoints(experiment.trainer, tmp_path / f"{number}")
        experiment.trainer.fit(experiment.model, datamodule=experiment.data)
    for expected, found in zip(untouched.model.parameters(), interrupted.model.parameters(), strict=True):
        assert torch.equal(found, expected)
