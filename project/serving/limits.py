"""Bounds of what a server takes, and the refusals it answers with."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from lightrail.project.basics.annotations import NotNegative, Positive, PositiveInt, Ranged
from lightrail.project.basics.errors import Refusal, cut, plain


@dataclass(frozen=True, kw_only=True)
class Limits(Ranged):
    """How much is answered at once, and how much a client may ask for."""

    max_batch: PositiveInt = 32
    """Examples of waiting requests that are answered together."""
    max_wait_ms: Annotated[NotNegative, Interval(le=1000)] = 2.0
    """Milliseconds that a request waits for others, while several clients send them; one that is alone never waits."""
    max_positions: PositiveInt = 16_384
    """Positions that the network reads at once, padding included; a longer example is read alone."""
    max_queue: PositiveInt = 256
    """Requests that wait; further ones are refused with status 503."""
    max_texts: PositiveInt = 256
    """Texts, rows or images of a request."""
    max_characters: PositiveInt = 20_000
    """Characters of a text, of all columns of a row, or of a prompt."""
    max_tokens: PositiveInt = 1024
    """Tokens to generate, of each sample of a request."""
    max_samples: PositiveInt = 8
    """Samples of a request that generates text, over all of its prompts."""
    max_body_mb: Positive = 8.0
    """Megabytes of a request's body."""
    timeout_seconds: Positive = 60.0
    """Seconds until a request, or a client that stops reading, is dropped."""

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request's body."""
        return int(self.max_body_mb * 2**20)


class Refused(Exception):  # noqa: N818 - an answer, not a mistake
    """A request that is answered with a status of HTTP and a message of one line.

    Args:
        retry_after: seconds after which to try again.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def overloaded(message: str) -> Refused:
    """Return the refusal of a request that may succeed in a moment."""
    return Refused(503, message, retry_after=1)


def refused(error: Exception) -> Refused:
    """Return the refusal that a client receives for an exception: without details of one that nobody foresaw."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Refusal):
        return Refused(400, cut(plain(str(error), 2000), 1000))
    return Refused(500, "the server failed at this request; see its log.")
