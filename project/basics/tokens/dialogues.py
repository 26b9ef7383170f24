"""Encoding of prompts with responses, and of chats, as token ids with marks of those to learn.

Shapes: T tokens of a dialogue.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightrail.project.basics.errors import ConfigError, DataError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

PROMPT, RESPONSE = "{prompt}", "{response}"
ASSISTANT = "assistant"
_ROLES = ("system", "user", ASSISTANT, "tool")
_OTHER_NAMES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}
_KEYS = (("role", "content"), ("from", "value"))

Turn = Sequence[str]
"""Role of the speaker, and content."""
Render = Callable[..., str]


class Segment(NamedTuple):
    """A part of a dialogue's text, which is learned or not."""

    text: str
    is_target: bool


class Numbered(NamedTuple):
    """An encoded dialogue, [T] each; its first position is no target."""

    ids: NDArray[np.int32]
    is_target: NDArray[np.uint8]
    num_characters: NDArray[np.integer]
    num_bytes: NDArray[np.integer]

    def cut(self, length: int) -> "Numbered":
        """Return the first `length` tokens."""
        ids, is_target, num_characters, num_bytes = self
        return Numbered(ids[:length], is_target[:length], num_characters[:length], num_bytes[:length])


def turns_of(messages: Any, where: str) -> list[list[str]]:
    """Read the turns of a chat up to the assistant's last, from objects with role and content, or from and value.

    Raises: DataError when they have another format, or the assistant has no turn.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(
            f"{where}: the chat is {shown(messages, 60)}. Give a list of turns, such as "
            f'[{{"role": "user", "content": "Hello"}}, {{"role": "assistant", "content": "Hello!"}}].'
        )
    turns = [_turn(message, f"{where}, turn {number}") for number, message in enumerate(messages, 1)]
    answers = [number for number, (role, _) in enumerate(turns) if role == ASSISTANT]
    if not answers:
        raise DataError(f"{where}: no turn of the assistant, so that nothing can be learned. Add one, or drop the row.")
    return turns[: answers[-1] + 1]


def _turn(message: Mapping[str, Any], where: str) -> list[str]:
    for role_key, content_key in _KEYS:
        role, content = message.get(role_key), message.get(content_key)
        if isinstance(role, str) and isinstance(content, str):
            known = role.strip().lower()
            known = _OTHER_NAMES.get(known, known)
            if known not in _ROLES:
                names = ", ".join([*_ROLES, *_OTHER_NAMES])
                raise DataError(f"{where}: unknown role {shown(role)}. Give one of {names}.")
            return [known, content]
    raise DataError(
        f"{where}: {shown(dict(message), 60)} is no turn. Give it texts `role` and `content`, or `from` and `value`."
    )


def check_template(template: str) -> None:
    """Check a template. Raises: ConfigError unless it contains prompt and response once each, in this order."""
    if template.count(PROMPT) != 1 or template.count(RESPONSE) != 1 or RESPONSE not in template.partition(PROMPT)[2]:
        raise ConfigError(f"data.template is {template!r}. Write {PROMPT} and, after it, {RESPONSE}, once each.")


def template_segments(template: str, prompt: str, response: str) -> list[Segment]:
    """Fill a template; text after the response is learned as well, since it ends the response.

    >>> [tuple(segment) for segment in template_segments("Q: {prompt} A: {response}", "Why?", "So.")]
    [('Q: Why? A: ', False), ('So.', True)]
    """
    before, _, after = template.partition(RESPONSE)
    return [Segment(before.replace(PROMPT, prompt), False), Segment(response + after, True)]


def chat_segments(turns: Sequence[Turn], render: Render, where: str) -> list[Segment]:
    """Format a chat by a tokenizer's template, and mark the assistant's turns in it.

    A turn is the text that the chat has in addition to the turns before it with the assistant's generation prompt.

    Args:
        render: `LanguageTokenizer.render_chat`.

    Raises: DataError when the template refuses the chat, or formats earlier turns differently once others follow.
    """
    messages = [{"role": role, "content": content} for role, content in turns]
    whole = _rendered(messages, render, where, add_generation_prompt=False)
    segments: list[Segment] = []
    place = 0
    for number, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        before = _prompt(messages[:number], render, where)
        after = _rendered(messages[: number + 1], render, where, add_generation_prompt=False)
        if not (whole.startswith(after) and after.startswith(before) and place <= len(before)):
            raise DataError(
                f"{where}: the chat template formats the turns before turn {number + 1} in one way to prompt for it "
                f"and in another within the chat, so that the response cannot be separated from the rest. Set "
                f"data.chat_template to another one, or give chats with one response."
            )
        segments += [Segment(before[place:], False), Segment(after[len(before) :], True)]
        place = len(after)
    return segments


def _prompt(messages: list[dict[str, str]], render: Render, where: str) -> str:
    """The text before a turn of the assistant; templates cannot format a chat without turns, before its first."""
    if messages:
        return _rendered(messages, render, where, add_generation_prompt=True)
    mark = "\ue000"
    greeting = _rendered([{"role": ASSISTANT, "content": mark}], render, where, add_generation_prompt=False)
    return greeting.partition(mark)[0]


def _rendered(messages: list[dict[str, str]], render: Render, where: str, *, add_generation_prompt: bool) -> str:
    with reading(
        f"{where}: the chat template refuses this chat", "Fix or drop it, or correct the template.", refusal=DataError
    ):
        return render(messages, add_generation_prompt=add_generation_prompt)


class DialogueEncoder:
    """Encodes dialogues with one tokenizer.

    Each segment is encoded by itself, so that a prompt has the same tokens as in generation. If a tokenizer adds a
    space before every text, the whole is encoded at once, and a token belongs to the segment in which it ends.
    """

    def __init__(self, tokenizer: LanguageTokenizer) -> None:
        self.tokenizer = tokenizer
        joined = tokenizer.decode(np.concatenate([tokenizer.encode("a"), tokenizer.encode("b")]))
        self.joins_exactly = joined == "ab"

    def framed(self, segments: Sequence[Segment]) -> Numbered:
        """Encode a dialogue between the start and the end of a document; the end is a target."""
        numbered = self._numbered(segments)
        return _extended(numbered, before=[self.tokenizer.start_id], after=[self.tokenizer.end_id])

    def chat(self, segments: Sequence[Segment]) -> Numbered:
        """Encode a chat, whose template includes the start; the end is added if the template has none."""
        numbered = self._numbered(segments)
        ends = np.flatnonzero(numbered.ids == self.tokenizer.end_id)
        last = int(ends[-1]) + 1 if len(ends) else 0
        if last and not self.tokenizer.decode(numbered.ids[last:]).strip():
            return numbered.cut(last)
        return _extended(numbered, before=[], after=[self.tokenizer.end_id])

    def _numbered(self, segments: Sequence[Segment]) -> Numbered:
        if self.joins_exactly:
            parts = [self.tokenizer.encode_counted(segment.text) for segment in segments]
            ids, num_characters, num_bytes = map(np.concatenate, zip(*parts, strict=True))
            places = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
        else:
            ids, num_characters, num_bytes = self.tokenizer.encode_counted("".join(part.text for part in segments))
            borders = np.cumsum([len(segment.text) for segment in segments])
            lasts = np.cumsum(num_characters, dtype=np.int64) - 1  # the last character of each token
            places = np.searchsorted(borders, lasts, side="right")
        marks = np.array([segment.is_target for segment in segments], np.uint8)[places]
        is_text = (ids != self.tokenizer.start_id) & (ids != self.tokenizer.end_id)
        return Numbered(ids, marks, num_characters * is_text, num_bytes * is_text)


def _extended(numbered: Numbered, before: list[int], after: list[int]) -> Numbered:
    ids, is_target, *counts = numbered
    pads = (len(before), len(after))
    return Numbered(
        np.concatenate([before, ids, after]).astype(np.int32),
        np.concatenate([[0] * len(before), is_target, [1] * len(after)]).astype(np.uint8),
        *(np.pad(own, pads) for own in counts),
    )


def spoken(turns: Sequence[Turn], *, by_assistant: bool) -> str:
    """Join the contents of the assistant's turns, or of all other turns, for display."""
    return "\n".join(_contents(turns, by_assistant))


def _contents(turns: Sequence[Turn], by_assistant: bool) -> Iterator[str]:
    return (content for role, content in turns if (role == ASSISTANT) == by_assistant)
