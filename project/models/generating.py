"""Streaming text generation with a trained model: text that was shown does not change, and stop strings end it."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import read_checkpoint, stored_configuration
from lightrail.lightning_modules.model_folder import can_predict
from lightrail.lightning_modules.networks.decoders.generation import (
    GenerationConfig,
    TextResponder,
    TextWriter,
    generate,
)
from lightrail.lightning_modules.transfer.exported import restore_task
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.hardware import usable_accelerator
from lightrail.project.basics.logs import silence_transformers
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig

HALF_CHARACTER = "\ufffd"
"""The character to which a tokenizer decodes bytes that are not, or not yet, a complete character."""


@dataclass(frozen=True)
class TextModel:
    """A language model's generation function and its tokenizer."""

    write: Callable[..., Generator[list[int | None]]]
    """Generates token ids, with the arguments of `generate` behind the decoder."""
    tokenizer: LanguageTokenizer
    template: str | None = None
    """Format of prompt and response in training, with {prompt} and {response}; None: chat template, or plain text."""

    def prompt_ids(self, text: str) -> list[int]:
        """Return the token ids of the beginning of a document; for an empty text, its start token alone."""
        return [self.tokenizer.start_id, *self.tokenizer.encode(text).tolist()]

    def turn_ids(self, text: str) -> list[int]:
        """Return the token ids of a user's message, up to the response, in the format of the training.

        Raises: ConfigError when the model has neither a template nor a chat template.
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
        """Continue a prompt, and yield at each step the new final part of each sample's text.

        Args:
            prompt_ids: token ids from `prompt_ids` or `turn_ids`.
            num_samples: number of texts.
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


@dataclass(frozen=True)
class ResponseModel:
    """A model that writes a text for each text that it reads, always the same one."""

    task: TextResponder

    def texts(self, prompt: str, *, num_best: int = 1, max_tokens: int | None = None) -> list[str]:
        """Return the best `num_best` texts, best first; "" in place of those that were not found."""
        (found,) = self.task.respond([prompt], num_best=num_best, max_tokens=max_tokens)
        return [text for text, _ in found] + [""] * (num_best - len(found))


class GrowingText:
    """Decodes tokens one by one; the parts from `add` and `end` together are the text up to a stop string.

    An incomplete character is held back until its other bytes come, and so is a possible beginning of a stop string.

    Args:
        prompt_ids: token ids before the text, on which its decoding may depend.
        stops: texts before which it ends.
    """

    def __init__(self, tokenizer: LanguageTokenizer, prompt_ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._ids = list(prompt_ids)
        # Tokens are decoded together with the last ones before them: alone, some decode to another text.
        self._start, self._num_decoded = 0, len(self._ids)
        self._held = ""
        self.has_ended = False

    def add(self, token: int | None) -> str:
        """Add the next token id, None for the end. Returns: the text that became final with it."""
        if self.has_ended:
            return ""
        if token is None:
            return self.end()
        self._ids.append(token)
        return self._release(self._decode(is_last=False), is_last=False)

    def end(self) -> str:
        """End the text. Returns: the rest that was held back."""
        if self.has_ended:
            return ""
        rest = self._release(self._decode(is_last=True), is_last=True)
        self.has_ended = True
        return rest

    def _decode(self, *, is_last: bool) -> str:
        """Decode the new tokens; "" until their text ends with a complete character."""
        before = self._tokenizer.decode(self._ids[self._start : self._num_decoded])
        text = self._tokenizer.decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith(HALF_CHARACTER) and not is_last):
            return ""
        self._start, self._num_decoded = self._num_decoded, len(self._ids)
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
    """Return the number of characters at the end of a text that may begin a stop string."""
    longest = min(len(stop) - 1, len(text))
    return next((number for number in range(longest, 0, -1) if text.endswith(stop[:number])), 0)


def load_text_model(named: str, tracking: TrackingConfig) -> TextModel | ResponseModel:
    """Load a model that writes text, onto the GPU if there is one.

    Args:
        named: a run, a checkpoint, or a folder that `lightrail export` or transformers wrote, as for `find_checkpoint`.

    Raises: ConfigError when there is no such model, or it writes no text.
    """
    device = torch.device("cuda" if usable_accelerator("auto") == "gpu" else "cpu")
    path = find_checkpoint(named, tracking)
    if path.is_dir() and (path / "config.json").is_file():
        from lightrail.lightning_modules.networks.decoders.pretrained_decoder import PretrainedDecoderConfig

        silence_transformers()
        tokenizer = load_language_tokenizer(str(path))
        decoder = PretrainedDecoderConfig(checkpoint=str(path)).build(tokenizer.size)
        return TextModel(partial(generate, decoder.to(device)), tokenizer)
    checkpoint = read_checkpoint(path)
    model = writing_model(restore_task(checkpoint, str(path)).to(device).eval(), named)
    if isinstance(model, ResponseModel) or (path.is_dir() and not can_predict(path)):
        return model
    settings = stored_configuration(checkpoint, str(path))["data"]["init_args"]
    return replace(model, template=settings.get("template"))


def writing_model(task: TaskModule, name: str) -> TextModel | ResponseModel:
    """Return the model of a task that writes text, in whichever way. Raises: ConfigError when it writes none."""
    return ResponseModel(task) if isinstance(task, TextResponder) else text_model(task, name)


def text_model(task: TaskModule, name: str) -> TextModel:
    """Return the model of a task that continues texts. Raises: ConfigError, containing `name`, when it does not."""
    if not isinstance(task, TextWriter):
        raise ConfigError(
            f"{name} is a {type(task).__name__}, which writes no text. Predictions: lightrail predict --ckpt_path P "
            f"--data.path FILE."
        )
    with reading(f"{name}: its tokenizer cannot be rebuilt", "The file may be damaged: name another."):
        tokenizer = LanguageTokenizer.from_facts(task.tokenizer_facts())
    return TextModel(task.write, tokenizer)
