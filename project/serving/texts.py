"""Text that a client asks a language model for: the request as OpenAI's API writes it, and the text in pieces."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig
from lightrail.project.basics.annotations import (
    PositiveInt,
    TypeHint,
    alternatives,
    fits,
    is_in_range,
    refusal,
    without_ranges,
)
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.tokenizing import whole_characters
from lightrail.project.models.generating import GrowingText, TextModel
from lightrail.project.serving.limits import Limits, Refused

DEFAULT_TOKENS = 200
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "best_of": (None, 1),
}
"""Parts of OpenAI's API that change the answer and are not there, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next final part of a sample."""

    index: int
    text: str
    finish: Literal["stop", "length"] | None
    """Why the sample ended: at its end or a stop text, or after `max_tokens`; None while it grows."""


@dataclass
class TextRequest:
    """A request for texts, and how many tokens were read and written for it so far."""

    prompts: Sequence[Callable[[TextModel], list[int]]]
    """Functions that give the token ids of each prompt."""
    config: GenerationConfig
    num_samples: int
    stops: Sequence[str]
    is_stream: bool
    has_usage: bool
    """Whether a stream ends with the numbers of tokens."""
    num_read: int = field(default=0, init=False)
    num_written: int = field(default=0, init=False)

    @property
    def num_choices(self) -> int:
        """Number of samples over all prompts."""
        return len(self.prompts) * self.num_samples

    def pieces(self, model: TextModel) -> Iterator[list[Piece]]:
        """Yield the pieces of each step, prompt after prompt; first an empty list, when the prompts are read.

        Raises: ConfigError when a prompt cannot be read.
        """
        prompts = [ids(model) for ids in self.prompts]
        self.num_read = sum(map(len, prompts))
        yield []
        for number, prompt in enumerate(prompts):
            yield from self._written(model, prompt, first=number * self.num_samples)

    def _written(self, model: TextModel, prompt: Sequence[int], first: int) -> Iterator[list[Piece]]:
        texts = [GrowingText(model.tokenizer, prompt, self.stops) for _ in range(self.num_samples)]
        end_id, num_steps = model.tokenizer.end_id, 0
        with closing(model.write(prompt, self.config, num_samples=self.num_samples, end_id=end_id)) as steps:
            for tokens in steps:
                num_steps += 1
                pieces = []
                for index, (text, token) in enumerate(zip(texts, tokens, strict=True), first):
                    if not text.has_ended:
                        self.num_written += token is not None
                        part = text.add(token)
                        pieces.append(Piece(index, part, "stop" if text.has_ended else None))
                yield [own for own in pieces if own.text or own.finish]
                if all(text.has_ended for text in texts):
                    return
        finish: Literal["stop", "length"] = "length" if num_steps >= self.config.max_tokens else "stop"
        yield [Piece(index, text.end(), finish) for index, text in enumerate(texts, first) if not text.has_ended]


def completion_request(body: Mapping[str, Any], limits: Limits) -> TextRequest:
    """Read the body of a request for `/v1/completions`. Raises: ConfigError, Refused."""
    prompt = body.get("prompt", "")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(own, str) for own in prompts):
        raise ConfigError(f"prompt: expected a text, or a list of texts, found {shown(prompt, 40)}.")
    for own in prompts:
        _check_length(len(own), limits)
    return _request(body, limits, [_of_text(whole_characters(own)) for own in prompts])


def chat_request(body: Mapping[str, Any], limits: Limits) -> TextRequest:
    """Read the body of a request for `/v1/chat/completions`. Raises: ConfigError, Refused."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f'messages: expected a list such as [{{"role": "user", "content": "Hello"}}], found '
                          f"{shown(messages, 40)}.")  # fmt: skip
    turns = [_turn(own, number) for number, own in enumerate(messages, 1)]
    _check_length(sum(len(own["content"]) for own in turns), limits)
    given = {**body, "max_tokens": body.get("max_completion_tokens", body.get("max_tokens"))}
    return _request(given, limits, [lambda model: _chat_ids(model, turns)])


def _of_text(text: str) -> Callable[[TextModel], list[int]]:
    return lambda model: model.prompt_ids(text)


def _chat_ids(model: TextModel, turns: Sequence[Mapping[str, str]]) -> list[int]:
    if model.template is None and model.tokenizer.has_chat_template:
        with reading("messages", "Give turns that the model's chat template takes."):
            rendered = model.tokenizer.render_chat(turns, add_generation_prompt=True)
        return model.tokenizer.encode(rendered).tolist()  # type: ignore[no-any-return]
    if model.template is None:
        raise ConfigError("this model has no chat template. Use /v1/completions.")
    if [own["role"] for own in turns] != ["user"]:
        raise ConfigError("messages: this model was trained on single prompts: give one message, of the role user.")
    return model.turn_ids(turns[0]["content"])


def _turn(message: Any, number: int) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if isinstance(content, list) and all(isinstance(own, Mapping) and own.get("type") == "text" for own in content):
        content = "".join(str(own.get("text", "")) for own in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ConfigError(f"messages: number {number} has no texts role and content: {shown(message, 60)}.")
    return {"role": role, "content": whole_characters(content)}


def _request(body: Mapping[str, Any], limits: Limits, prompts: list[Callable[[TextModel], list[int]]]) -> TextRequest:
    for name, nothing in _NOT_OFFERED.items():
        if body.get(name) not in nothing:
            raise ConfigError(f"{name} is not offered here, found {shown(body[name], 40)}. Leave it out.")
    num_samples = _checked(_given(body, "n", 1), PositiveInt, "n")
    config = _config(body, limits)
    stop = _given(body, "stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(own, str) and own for own in stops):
        raise ConfigError(f"stop: expected a text, or up to 16 texts, none of them empty, found {shown(stop, 40)}.")
    usage = body.get("stream_options")
    has_usage = isinstance(usage, Mapping) and bool(usage.get("include_usage"))
    request = TextRequest(prompts, config, num_samples, stops, bool(body.get("stream")), has_usage)
    if request.num_choices > limits.max_samples:
        raise ConfigError(f"{request.num_choices} samples are asked for, and a request may have {limits.max_samples}.")
    return request


def _config(body: Mapping[str, Any], limits: Limits) -> GenerationConfig:
    usual = {"max_tokens": min(DEFAULT_TOKENS, limits.max_tokens), "seed": secrets.randbelow(2**31)}
    values = {}
    for option in fields(GenerationConfig):
        value = _given(body, option.name, usual.get(option.name, option.default))
        values[option.name] = _checked(value, option.type, option.name)
    config = GenerationConfig(**values)
    if config.max_tokens > limits.max_tokens:
        raise ConfigError(
            f"max_tokens is {config.max_tokens:,}, and this server generates at most {limits.max_tokens:,}."
        )
    return config


def _checked(value: Any, annotation: TypeHint, name: str) -> Any:
    is_typed = any(fits(value, own) for own in alternatives(without_ranges(annotation)))
    if not is_typed or not is_in_range(value, annotation):
        raise refusal(value, annotation, name)
    return value


def _given(body: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a value, or the default in the place of null, which OpenAI's client may send."""
    return default if body.get(name) is None else body[name]


def _check_length(num_characters: int, limits: Limits) -> None:
    if num_characters > limits.max_characters:
        raise Refused(413, f"the prompt has {num_characters:,} characters, more than {limits.max_characters:,}.")
