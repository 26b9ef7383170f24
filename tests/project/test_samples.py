"""Text at each validation: readable, the same for the same weights, and without effect on the training."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.models.generating import text_model
from lightrail.project.tracking.settings import CheckpointConfig, SamplesConfig
from lightrail.project.training.checkpoints import StepSeeds, checkpoint_callbacks, place_checkpoints
from lightrail.project.training.samples import GENERATED, SampledText, generated_texts, place_samples, sampled_text
from lightrail.testing.resuming import Curves
from tests.support.callbacks import RaiseAt
from tests.support.language_model import TEXTS
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail
from tests.support.tiny import Signs, quiet_trainer

TOKENIZER = load_language_tokenizer("characters", TEXTS)
SAMPLES = SamplesConfig(prompts=("", "春天"), num_samples=2, max_tokens=8)
PATHS = {"path": "train", "validation_path": "validation", "test_path": "test"}
pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're using the WeightAveraging callback with a model that overrides",
)


class Sentences:
    """The texts as documents, each several times."""

    ids = [np.array([TOKENIZER.end_id, *TOKENIZER.encode(text), TOKENIZER.end_id]) for text in TEXTS * 3]  # noqa: RUF012

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> dict[str, Any]:
        return {"ids": self.ids[index]}


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    longest = max(len(row["ids"]) for row in rows) - 1
    inputs, labels = torch.zeros(len(rows), longest, dtype=torch.int64), torch.full((len(rows), longest), -100)
    for place, row in enumerate(rows):
        ids = torch.from_numpy(row["ids"].astype(np.int64))
        inputs[place, : len(ids) - 1], labels[place, : len(ids) - 1] = ids[:-1], ids[1:]
    counts = [len(row["ids"]) - 2 for row in rows]
    return {
        "id": [row["id"] for row in rows],
        "input_ids": inputs,
        "labels": labels,
        "num_tokens": sum(counts) + len(rows),
        "num_targets": sum(counts) + len(rows),
        "num_characters": counts,
        "num_bytes": counts,
        "text": [""] * len(rows),
    }


def loader(*, is_shuffled: bool = False) -> BatchLoader:
    rows = Sentences()
    lengths = np.array([len(ids) for ids in rows.ids])
    return BatchLoader(rows, collate, BucketSampler(lengths, BatchConfig(size=3), is_shuffled=is_shuffled))


def model() -> CausalLM:
    torch.manual_seed(1)
    return CausalLM(TOKENIZER.facts(), decoder=TransformerDecoderConfig(width=16, depth=1, num_heads=2, dropout=0.2))


class Fit:
    """A training of a few steps, validated after every other one, in a folder as a run has it."""

    def __init__(
        self, folder: Path, callbacks: list[Any], *, steps: int = 6, resume_from: Path | None = None, **more: Any
    ) -> None:
        self.folder, self.model, self.curves = folder, model(), Curves()
        self.uploads: list[str] = []
        every = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": None, **more}
        self.trainer = quiet_trainer(max_steps=steps, callbacks=callbacks, num_sanity_val_steps=1, **every)
        self.trainer.logger = self.curves
        self.model.is_tracked = True
        self.trainer.callbacks += checkpoint_callbacks(self.model, [], CheckpointConfig())  # type: ignore[attr-defined]
        place_checkpoints(self.trainer, folder / "checkpoints")
        place_samples(self.trainer, folder, self.uploads.append)
        torch.manual_seed(2)
        data = loader(is_shuffled=True), loader()
        self.trainer.fit(self.model, *data, ckpt_path=resume_from, weights_only=True)

    @property
    def text(self) -> str:
        return (self.folder / GENERATED).read_text("utf-8")

    @property
    def headings(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.startswith("=====")]


def shown(texts: list[tuple[str, str]]) -> str:
    """A prompt in brackets before what goes on from it, an empty line between texts."""
    return "\n".join(f"[{prompt}]{text}\n" if prompt else f"{text}\n" for prompt, text in texts)


def test_what_the_model_writes_is_kept_with_step_and_loss(tmp_path: Path) -> None:
    done = Fit(tmp_path, sampled_text(model(), SAMPLES))
    losses = done.curves.of("val/loss")
    assert list(losses) == [2, 4, 6]
    assert done.headings == [f"===== step {step}, val/loss {loss:.4f} =====" for step, loss in losses.items()]
    last = done.text.rpartition("=====\n")[2]
    texts = generated_texts(text_model(done.model, "it"), SAMPLES)
    assert [prompt for prompt, _ in texts] == ["", "", "春天", "春天"]
    assert last == shown(texts)
    assert len({text for _, text in texts}) > 2
    assert done.uploads == [GENERATED] * 3
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["generated.txt"]


def test_training_is_the_same_to_the_last_bit_with_and_without(tmp_path: Path) -> None:
    with_text = Fit(tmp_path / "with", sampled_text(model(), SAMPLES))
    without = Fit(tmp_path / "without", [])
    assert with_text.curves.points == without.curves.points
    for name, value in with_text.model.state_dict().items():
        assert torch.equal(value, without.model.state_dict()[name])


def test_a_resumed_run_ends_with_the_same_text(tmp_path: Path) -> None:
    whole = Fit(tmp_path / "whole", [StepSeeds(0), SampledText(SAMPLES)])
    with pytest.raises(RuntimeError, match="as asked"):
        Fit(tmp_path / "part", [StepSeeds(0), SampledText(SAMPLES), RaiseAt(3)])
    shutil.copy(tmp_path / "part" / "checkpoints" / "last.ckpt", tmp_path / "state.ckpt")
    (tmp_path / "part" / GENERATED).write_text("===== step 5, of a process that was killed =====\n")
    rest = Fit(tmp_path / "part", [StepSeeds(0), SampledText(SAMPLES)], resume_from=tmp_path / "state.ckpt")
    assert rest.text == whole.text
    assert len(rest.headings) == 3
    assert rest.uploads == [GENERATED] * 3, "once without what was made later, then at each validation"


def test_the_text_is_written_by_the_weights_that_are_validated(tmp_path: Path) -> None:
    averaging = EMAWeightAveraging(decay=0.5)
    done = Fit(tmp_path, [*sampled_text(model(), SAMPLES), averaging])
    averaged = done.model  # at its end the training leaves the averaged weights in the model
    texts = generated_texts(text_model(averaged, "it"), SAMPLES)
    assert done.text.endswith(f"=====\n{shown(texts)}")


def test_two_validations_of_one_step_are_shown_once(tmp_path: Path) -> None:
    done = Fit(tmp_path, sampled_text(model(), SAMPLES), steps=2, accumulate_grad_batches=3, val_check_interval=1)
    assert len(done.uploads) > len(done.headings)
    steps = [int(heading.split()[2].rstrip(",")) for heading in done.headings]
    assert steps == sorted(set(steps))


def test_an_evaluation_writes_nothing(tmp_path: Path) -> None:
    done = Fit(tmp_path, sampled_text(model(), SAMPLES), steps=2)
    before = done.text
    done.trainer.validate(done.model, loader(), verbose=False)
    assert done.text == before
    assert len(done.uploads) == 1


def test_only_models_that_write_and_settings_that_ask_for_text_have_it() -> None:
    assert sampled_text(Signs(), SAMPLES) == []
    assert sampled_text(model(), SamplesConfig(num_samples=0)) == []
    assert sampled_text(model(), SamplesConfig(prompts=())) == []
    (found,) = sampled_text(model(), SamplesConfig())
    assert isinstance(found, pl.Callback)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": -1}, "num_samples: expected a whole number of at least 0, found -1"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number of at least 1, found 0"),
        ({"temperature": -0.5}, "temperature: expected a number of at least 0 and below inf, found -0.5"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1 or null, found 0"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplesConfig(**settings)


def test_a_run_holds_what_its_model_wrote(store: str, tmp_path: Path) -> None:
    texts = [f"春天来了，第{number}朵花开了。" for number in "一二三四五六七八九十"]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    own = [f"--data.{setting}={tmp_path}/{name}.txt" for setting, name in PATHS.items()]
    network = [f"--model.decoder.{setting}" for setting in ("width=16", "depth=1", "num_heads=2")]
    samples = ["--tracking.samples.prompts=[春天]", "--tracking.samples.max_tokens=6"]
    arguments = [*own, *network, *samples, *FOUR_STEPS, *QUIET, f"--tracking.uri={store}"]
    outcome = lightrail("fit", "--config=causal_lm", *arguments)
    assert outcome.status == 0, outcome.err
    run = RecordedRun(store, outcome.run_id)
    assert f"`lightrail generate {run.run_id} --prompt TEXT`" in run.tags["mlflow.note.content"]
    text = (run.directory / GENERATED).read_text("utf-8")
    losses = dict(run.history("val/loss"))
    assert [f"step {step}, val/loss {loss:.4f}" in text for step, loss in losses.items()] == [True] * 2
    assert text.count("[春天]") == 2
    written = lightrail("generate", run.run_id, "--prompt=春天", "--max_tokens=6", f"--tracking.uri={store}").out
    best = min(losses, key=losses.__getitem__)
    assert f"step {best}, val/loss {losses[best]:.4f} =====\n[春天]{written}" in text, "the best weights write it again"
