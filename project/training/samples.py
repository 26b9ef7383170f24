"""Text that a language model writes at each validation, kept in the run so that its progress can be read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.generation import GenerationConfig, TextWriter
from lightrail.project.basics.durable import write_whole
from lightrail.project.models.generating import TextModel, text_model
from lightrail.project.tracking.settings import SamplesConfig

GENERATED = "samples/generated.txt"
"""In the run's folder: what was generated after each validation, the newest last."""


@dataclass
class _Place:
    """Where the text of a run goes."""

    folder: Path
    upload_soon: Callable[[str], None]


@dataclass
class _Entry:
    """What was generated at one step."""

    step: int
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Prompt and text."""
    loss: float | None = None


class SampledText(Callback):
    """Generates from fixed prompts with a fixed seed at each validation, by the weights that are validated.

    Process zero alone does it, which takes weights that are whole there: not those of FSDP. Checkpoints hold the
    entries up to their step, so that a run that goes on ends with the same file as one that was left alone.
    """

    def __init__(self, config: SamplesConfig) -> None:
        self.config = config
        self.place: _Place | None = None
        self._entries: list[_Entry] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._entries:
            self._write(trainer)  # without what was generated after the state that training goes on from

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not later: where weights are averaged, the averaged ones are in place until the end of this hook.
        is_whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if self._is_due(trainer) and trainer.is_global_zero and is_whole:
            assert isinstance(pl_module, TaskModule)
            texts = list(generated_texts(text_model(pl_module, "the model"), self.config))
            earlier = [entry for entry in self._entries if entry.step < trainer.global_step]
            self._entries = [*earlier, _Entry(trainer.global_step, texts)]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_due(trainer) and self._entries and self._entries[-1].step == trainer.global_step:
            loss = trainer.callback_metrics.get("val/loss")
            self._entries[-1].loss = None if loss is None else float(loss)
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"entries": [[entry.step, entry.loss, *map(list, entry.texts)] for entry in self._entries]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._entries = [
            _Entry(step, [(prompt, text) for prompt, text in texts], loss)
            for step, loss, *texts in state_dict["entries"]
        ]

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Whether this is a validation of the training, and no rehearsal or calibration."""
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def _write(self, trainer: pl.Trainer) -> None:
        if self.place is None or not trainer.is_global_zero:
            return
        target = self.place.folder / GENERATED
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, "\n".join(map(_shown, self._entries)))
        self.place.upload_soon(GENERATED)


def sampled_text(model: pl.LightningModule, config: SamplesConfig) -> list[Callback]:
    """Give the callback for a model that writes text, none for others or where no samples are wanted."""
    is_wanted = isinstance(model, TextWriter) and config.num_samples > 0 and config.prompts
    return [SampledText(config)] if is_wanted else []


def place_samples(trainer: pl.Trainer, folder: Path, upload_soon: Callable[[str], None]) -> None:
    """Have the text written to the folder of a run, and sent from there while the run goes on."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SampledText):
            callback.place = _Place(folder, upload_soon)


def generated_texts(model: TextModel, config: SamplesConfig) -> list[tuple[str, str]]:
    """Generate `num_samples` texts for each prompt; the same weights give the same ones. Returns: prompt and text."""
    found = []
    for prompt in config.prompts:
        texts = [""] * config.num_samples
        for parts in model.samples(model.prompt_ids(prompt), _generation(config), num_samples=config.num_samples):
            texts = [text + part for text, part in zip(texts, parts, strict=True)]
        found += [(prompt, text) for text in texts]
    return found


def _generation(config: SamplesConfig) -> GenerationConfig:
    names = ("max_tokens", "temperature", "top_k", "seed")
    return GenerationConfig(**{name: getattr(config, name) for name in names})


def _shown(entry: _Entry) -> str:
    """One step as a person reads it, each prompt in brackets before the text that goes on from it."""
    loss = "" if entry.loss is None else f", val/loss {entry.loss:.4f}"
    texts = "\n".join(f"{f'[{prompt}]' if prompt else ''}{text}\n" for prompt, text in entry.texts)
    return f"===== step {entry.step}{loss} =====\n{texts}"
