"""The thread of a model: it answers waiting requests together, and writes texts by turns, a token of each."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, final

from lightrail.project.basics.errors import Refusal
from lightrail.project.models.engine import Engine
from lightrail.project.models.generating import TextModel
from lightrail.project.serving.limits import Limits, Refused, overloaded, refused
from lightrail.project.serving.texts import Piece, TextRequest

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
_Step = list[Piece] | Exception | None
MOST_WRITTEN = 16
"""Requests for texts that are written by turns; further ones wait."""


@dataclass(eq=False)
class _Predicting:
    inputs: Sequence[Any]
    is_typed: bool
    """Whether the only input is what somebody types, who is to choose; such a request waits for no other."""
    answer: "asyncio.Future[Rows]"
    """Cancelled when nobody waits for it any more."""


@dataclass(eq=False)
class _Writing:
    request: TextRequest
    steps: "asyncio.Queue[_Step]" = field(default_factory=asyncio.Queue)
    """Steps as they come, then None, or an exception."""
    is_dropped: bool = False
    pieces: Iterator[list[Piece]] | None = None


@final
class Worker:
    """Answers requests of an event loop in one thread, which alone uses the model.

    Args:
        engine: predicts; None where the model only continues texts.
        model: continues texts; None where the model does not.
        observe: called with the number of requests that are answered together.
    """

    def __init__(
        self, engine: Engine | None, model: TextModel | None, limits: Limits, observe: Callable[[int], None]
    ) -> None:
        self.engine, self.model = engine, model
        self._limits, self._observe = limits, observe
        self._changed = threading.Condition()
        self._predictions: deque[_Predicting] = deque()
        self._texts: deque[_Writing] = deque()
        self._written: list[_Writing] = []
        self._num_together = 1
        """Number of requests that were answered together the last time: how many to wait for."""
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread, for requests of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """End the thread, which first answers everything that waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._predictions) + len(self._texts)

    def predicting(self, inputs: Sequence[Any], *, is_typed: bool = False) -> "asyncio.Future[Rows]":
        """Return the future predictions for the inputs of a request; cancelled, it is dropped unless it has begun.

        Its exception is a Refusal for inputs that cannot be predicted.

        Raises: Refused when too many requests wait.
        """
        job = _Predicting(inputs, is_typed, self._loop.create_future())
        self._add(self._predictions, job)
        return job.answer

    async def predict(self, inputs: Sequence[Any], leaving: "asyncio.Future[None]", *, is_typed: bool = False) -> Rows:
        """Return the predictions for the inputs of a request, unless the future that its client has left comes first.

        Raises: Refusal for inputs that cannot be predicted; Refused when too many requests wait, or it takes too long.
        """
        answer = self.predicting(inputs, is_typed=is_typed)
        leaving.add_done_callback(lambda _: answer.cancel())
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await answer
        except TimeoutError as error:
            raise self._too_late() from error
        except asyncio.CancelledError as error:
            if not leaving.done():
                raise
            raise Refused(499, "the client has left.") from error

    async def write(self, request: TextRequest) -> AsyncGenerator[list[Piece]]:
        """Yield the pieces of texts as they are written; closed before its end, the rest is not written.

        Raises: Refusal for a prompt that cannot be read; Refused as `predict`.
        """
        job = _Writing(request)
        self._add(self._texts, job)
        try:
            deadline = self._loop.time() + self._limits.timeout_seconds
            while True:
                async with asyncio.timeout_at(deadline):  # not around it all: several tasks may take the steps
                    step = await job.steps.get()
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    return
                yield step
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            job.is_dropped = True

    def _add(self, waiting: deque[Any], job: Any) -> None:
        with self._changed:
            if self.num_waiting >= self._limits.max_queue:
                raise overloaded(f"{self._limits.max_queue} requests wait already. Try again in a moment.")
            waiting.append(job)
            self._changed.notify()

    def _too_late(self) -> Refused:
        return overloaded(f"there was no answer within {self._limits.timeout_seconds:g} s. Ask for less, or later.")

    def _run(self) -> None:
        while (jobs := self._next_jobs()) is not None:
            if jobs:
                self._observe(len(jobs))
                self._answer(jobs)
            self._write_on()

    def _next_jobs(self) -> list[_Predicting] | None:
        """Wait for work, and return the requests to answer together; None when there is none left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self.num_waiting or self._written or self._is_closing)
            if not (self.num_waiting or self._written):
                return None
            while self._texts and len(self._written) < MOST_WRITTEN:
                self._written.append(self._texts.popleft())
            is_typed = any(job.is_typed for job in self._predictions)
            if self._predictions and self._num_together > 1 and not self._written and not is_typed:
                most = min(self._num_together, self._limits.max_batch)
                seconds = self._limits.max_wait_ms / 1000
                self._changed.wait_for(lambda: len(self._predictions) >= most or self._is_closing, seconds)
            jobs: list[_Predicting] = []
            room = self._limits.max_batch
            while self._predictions and (not jobs or len(self._predictions[0].inputs) <= room):
                jobs.append(self._predictions.popleft())
                room -= len(jobs[-1].inputs)
            self._num_together = sum(not job.is_typed for job in jobs) or self._num_together
            return jobs

    def _answer(self, jobs: Sequence[_Predicting]) -> None:
        """Answer requests together; when that fails, each alone, so that none is refused for another one's input."""
        assert self.engine is not None
        wanted = [job for job in jobs if not job.answer.cancelled()]
        answers: list[tuple[_Predicting, Rows | Exception]] = []
        encoded = []
        for job in wanted:
            try:
                if job.is_typed:
                    answers.append((job, self.engine.candidates(*job.inputs)))
                else:
                    encoded.append((job, self.engine.encode(job.inputs)))
            except Exception as error:
                answers.append((job, _noted(error)))
        try:
            found = self.engine.predict([rows for _, rows in encoded])
            answers += zip((job for job, _ in encoded), found, strict=True)
        except Exception as error:
            if len(encoded) == 1:
                answers.append((encoded[0][0], _noted(error)))
            else:
                for job, _ in encoded:
                    self._answer([job])
        self._tell(_settle, answers)

    def _write_on(self) -> None:
        """Write the next token of each text."""
        assert self.model is not None or not self._written
        steps: list[tuple[_Writing, _Step]] = []
        for job in list(self._written):
            step: _Step = None
            try:
                if job.pieces is None and not job.is_dropped:
                    job.pieces = job.request.pieces(self.model)  # type: ignore[arg-type]
                step = None if job.is_dropped or job.pieces is None else next(job.pieces, None)
            except Exception as error:
                step = _noted(error)
            if not isinstance(step, list):
                self._written.remove(job)
                if job.pieces is not None:
                    job.pieces.close()  # type: ignore[attr-defined]  # a generator
            steps.append((job, step))
        if steps:
            self._tell(_pass_on, steps)

    def _tell(self, call: Callable[[Any], None], news: Sequence[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(call, news)


def _noted(error: Exception) -> Refused:
    """Return the refusal for the client; the log has the rest."""
    if not isinstance(error, Refusal | Refused):
        log.error("a request failed", exc_info=error)
    return refused(error)


def _settle(answers: Sequence[tuple[_Predicting, Rows | Exception]]) -> None:
    for job, answer in answers:
        if job.answer.done():  # dropped
            continue
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)


def _pass_on(steps: Sequence[tuple[_Writing, _Step]]) -> None:
    for job, step in steps:
        job.steps.put_nowait(step)
