"""Texts in the protocol of OpenAI's API, whole or as server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lightrail.project.basics.errors import shown
from lightrail.project.serving.guard import answer_of, as_json
from lightrail.project.serving.inputs import body_of, object_of
from lightrail.project.serving.limits import Limits, Refused
from lightrail.project.serving.texts import Piece, TextRequest, chat_request, completion_request
from lightrail.project.serving.worker import Worker


@final
class Completions:
    """The handlers of requests for texts.

    Args:
        name: what clients call the model.
        worker: writes the texts.
    """

    def __init__(self, name: str, worker: Worker, limits: Limits) -> None:
        self._name, self._worker, self._limits = name, worker, limits
        self._created = int(time.time())

    async def models(self) -> Response:
        """The one model that is served."""
        model = {"id": self._name, "object": "model", "created": self._created, "owned_by": "lightrail"}
        return as_json({"object": "list", "data": [model]})

    async def complete(self, request: Request) -> Response:
        """Continuations of a prompt, or of several."""
        body = await self._body(request)
        return await self._answer(request, completion_request(body, self._limits), is_chat=False)

    async def chat(self, request: Request) -> Response:
        """The next turn of a conversation."""
        body = await self._body(request)
        return await self._answer(request, chat_request(body, self._limits), is_chat=True)

    async def _body(self, request: Request) -> dict[str, Any]:
        body = object_of(await body_of(request, self._limits))
        if self._worker.model is None:
            raise Refused(404, "this model continues no texts. Use /predict.")
        if body.get("model", self._name) != self._name:
            raise Refused(404, f"there is no model {shown(body['model'])}: this server has {self._name}.")
        return body

    async def _answer(self, request: Request, asked: TextRequest, *, is_chat: bool) -> Response:
        form = _Form(self._name, asked, is_chat=is_chat)
        steps = self._worker.write(asked)
        await anext(steps)  # the prompts are read, or refused
        if asked.is_stream:
            return StreamingResponse(_events(steps, form), media_type="text/event-stream")
        texts, finishes = [""] * asked.num_choices, [""] * asked.num_choices
        async with aclosing(steps):
            async for step in steps:
                if await request.is_disconnected():
                    raise Refused(499, "the client has left.")
                for piece in step:
                    texts[piece.index] += piece.text
                    finishes[piece.index] = piece.finish or ""
        return as_json(form.whole(texts, finishes))


class _Form:
    """The form of a response, of a completion or of a chat."""

    def __init__(self, name: str, asked: TextRequest, *, is_chat: bool) -> None:
        self._asked, self._is_chat = asked, is_chat
        self._kind = "chat.completion" if is_chat else "text_completion"
        self._same = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": name,
        }

    def whole(self, texts: list[str], finishes: list[str]) -> dict[str, Any]:
        """Return the response with all texts."""
        choices = [
            self._choice(index, finish, {"message": {"role": "assistant", "content": text}} if self._is_chat else text)
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return {**self._same, "object": self._kind, "choices": choices, "usage": self._usage()}

    def starts(self) -> list[dict[str, Any]]:
        """Return the events before the first piece: of a chat, the role of each choice."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        numbers = range(self._asked.num_choices if self._is_chat else 0)
        return [self._chunk([self._choice(index, None, delta)]) for index in numbers]

    def piece(self, piece: Piece) -> dict[str, Any]:
        """Return the event of a piece."""
        delta = {"content": piece.text} if piece.text else {}
        return self._chunk([self._choice(piece.index, piece.finish, {"delta": delta} if self._is_chat else piece.text)])

    def ends(self) -> list[dict[str, Any]]:
        """Return the event after the last piece, if it was asked for."""
        return [{**self._chunk([]), "usage": self._usage()}] if self._asked.has_usage else []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = f"{self._kind}.chunk" if self._is_chat else self._kind
        return {**self._same, "object": kind, "choices": choices}

    def _choice(self, index: int, finish: str | None, content: str | Mapping[str, Any]) -> dict[str, Any]:
        more = {"text": content} if isinstance(content, str) else dict(content)
        return {"index": index, **more, "logprobs": None, "finish_reason": finish}

    def _usage(self) -> dict[str, int]:
        read, written = self._asked.num_read, self._asked.num_written
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _events(steps: AsyncGenerator[list[Piece]], form: _Form) -> AsyncIterator[bytes]:
    """Yield server-sent events; an error ends them, as an event of its own."""
    for event in form.starts():
        yield _event(event)
    try:
        async with aclosing(steps):
            async for step in steps:
                for piece in step:
                    yield _event(form.piece(piece))
    except Exception as error:
        yield b"data: " + bytes(answer_of(error).body) + b"\n\n"
        return
    for event in form.ends():
        yield _event(event)
    yield b"data: [DONE]\n\n"


def _event(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
