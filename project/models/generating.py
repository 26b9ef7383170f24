"""Text of a trained model as it comes into being: what is shown stays, and stop strings end it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from lightrail.datamodules.tokens.learning import load_language_tokenizer
from lightrail.datamodules.tokens.numbering import LanguageTokenizer
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint
from lightrail.lightning_modules.exported import load_exported, restore_task
from lightrail.lightning_modules.generation import GenerationConfig, TextWriter, generate
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.hardware import usable_accelerator
from lightrail.project.basics.logs import silence_transformers
from lightrail.project.models.stored_model import checkpoint_of
from lightrail.project.tracking.settings import TrackingConfig

HALF_CHARACTER = "\ufffd"
"""How a tokenizer spells bytes that are no whole character, or not yet."""


@dataclass(frozen=True)
class TextModel:
    """What writes tokens, and the tokenizer of the text it was trained on."""

    write: Callable[..., Generator[list[int | None]]]
    """As `generate` of a decoder."""
    tokenizer: LanguageTokenizer
    template: str | None = None
    """How prompt and response were written in training, with {prompt} and {response}; None: as a chat, or neither."""

    def prompt_ids(self, text: str) -> list[int]:
        """Number a document's beginning; an empty text gives the start of a document alone."""
        return [self.tokenizer.start_id, *self.tokenizer.encode(text).tolist()]

    def turn_ids(self, text: str) -> list[int]:
        """Number what comes before the answer to a text that a person says, as it was written in training.

        Raises: ConfigError when the model was not trained to answer.
        """
        if self.template is not None:
            return self.prompt_ids(self.template.partition("{response}")[0].replace("{prompt}", text))
        if not self.tokenizer.has_chat_template:
            raise ConfigError("--chat: the tokenizer of this model has no chat template. Leave --chat out.")
        rendered = self.tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)
        return self.tokenizer.encode(rendered).tolist()  # type: ignore[no-any-return]  # it begins with the start token

    def samples(
        self, prompt_ids: Sequence[int], config: GenerationConfig, *, num_samples: int = 1, stops: Sequence[str] = ()
    ) -> Iterator[list[str]]:
        """Go on from a prompt, and give at each step what has become certain of each sample's text.

        Args:
            prompt_ids: of `prompt_ids` or `turn_ids`.
            stops: texts before which a sample ends.

        Raises: ConfigError when a setting is out of range.
        """
        texts = [GrowingText(self.tokenizer, prompt_ids, stops) for _ in range(num_samples)]
        end_id = self.tokenizer.end_id
        with closing(self.write(prompt_ids, config, num_samples=num_samples, end_id=end_id)) as steps:
            for tokens in steps:
                yield [text.add(token) for text, token in zip(texts, tokens, strict=True)]
                if all(text.has_ended for text in texts):
                    return
        yield [text.end() for text in texts]


class GrowingText:
    """Text of tokens that come one by one. What `add` and `end` give, put together, is the text up to a stop string.

    An unfinished character waits for its other bytes, and what may be the beginning of a stop string for what follows.

    Args:
        prompt_ids: tokens before the text, on which its spelling may depend.
        stops: texts before which it ends.
    """

    def __init__(self, tokenizer: LanguageTokenizer, prompt_ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._ids = list(prompt_ids)
        # Tokens are spelled with the last ones that were spelled before them: alone, some spell another text.
        self._start, self._num_spelled = 0, len(self._ids)
        self._held = ""
        self.has_ended = False

    def add(self, token: int | None) -> str:
        """Take the next token, None for the end, and give the text that is certain now and was not before."""
        if self.has_ended:
            return ""
        if token is None:
            return self.end()
        self._ids.append(token)
        return self._release(self._spell(is_last=False), is_last=False)

    def end(self) -> str:
        """Give the rest."""
        if self.has_ended:
            return ""
        rest = self._release(self._spell(is_last=True), is_last=True)
        self.has_ended = True
        return rest

    def _spell(self, *, is_last: bool) -> str:
        """The text of tokens that were not spelled yet, once it ends with a whole character."""
        before = self._tokenizer.decode(self._ids[self._start : self._num_spelled])
        text = self._tokenizer.decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith(HALF_CHARACTER) and not is_last):
            return ""
        self._start, self._num_spelled = self._num_spelled, len(self._ids)
        return text[len(before) :]

    def _release(self, new: str, *, is_last: bool) -> str:
        text = self._held + new
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held, self.has_ended = "", True
            return text[: min(found)]
        num_held = 0 if is_last else max((_num_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _num_begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string that is not in it."""
    longest = min(len(stop) - 1, len(text))
    return next((number for number in range(longest, 0, -1) if text.endswith(stop[:number])), 0)


def load_text_model(named: str, tracking: TrackingConfig) -> TextModel:
    """Find and read a model that writes text, on the GPU where there is one.

    Args:
        named: a run or a checkpoint file, as `checkpoint_of` takes them, or a folder that `lightrail export` or
            transformers wrote.

    Raises: ConfigError when there is no such model, or it writes no text.
    """
    device = torch.device("cuda" if usable_accelerator("auto") == "gpu" else "cpu")
    folder = Path(named).expanduser()
    if folder.is_dir() and (folder / "config.json").is_file():
        from lightrail.lightning_modules.networks.decoders.pretrained_decoder import PretrainedDecoderConfig

        silence_transformers()
        tokenizer = load_language_tokenizer(str(folder))
        decoder = PretrainedDecoderConfig(checkpoint=str(folder)).build(tokenizer.size)
        return TextModel(partial(generate, decoder.to(device)), tokenizer)
    if folder.is_dir():
        return text_model(load_exported(folder, device), named)
    path = checkpoint_of(named, tracking)
    checkpoint = read_checkpoint(path)
    model = text_model(restore_task(checkpoint, str(path)).to(device), named)
    return replace(model, template=checkpoint["configuration"]["data"]["init_args"].get("template"))


def text_model(task: TaskModule, name: str) -> TextModel:
    """Give what writes text in a task. Raises: ConfigError, naming `name`, when it is one that does not."""
    if not isinstance(task, TextWriter):
        raise ConfigError(
            f"{name} is a {type(task).__name__}, which writes no text. Its answers: lightrail predict --ckpt_path P "
            f"--data.path FILE."
        )
    return TextModel(task.write, LanguageTokenizer.from_facts(task.tokenizer_facts()))
