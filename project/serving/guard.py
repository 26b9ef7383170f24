"""The checks that every request passes: who may ask, how much may be sent; and one line for each refusal."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightrail.project.serving.inputs import too_large
from lightrail.project.serving.limits import Limits, Refused, overloaded, refused
from lightrail.project.serving.metrics import Metrics

log = logging.getLogger(__name__)

OPEN = ("/", "/ping", "/health")
"""Routes that need no token: they tell nothing about the model."""
_BODIES_AT_A_TIME = 8
"""Bodies of the greatest size that are held in memory at a time."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    token: str = ""
    """What requests carry as `Authorization: Bearer TOKEN`; empty: nothing."""
    hosts: frozenset[str] = frozenset()
    """Names under which the server is addressed; empty: any. On a loopback address any page that a browser shows could
    otherwise have its own name lead here (DNS rebinding)."""

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Check a request. Raises: Refused."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
            raise Refused(403, f"this server answers as {', '.join(sorted(self.hosts))} alone, not as another host.")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host:
            raise Refused(403, "pages of other sites may not ask this server.")
        if self.token and path not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refused(401, "a token is needed: send the header Authorization: Bearer TOKEN.")


@final
class Guard:
    """The application around the routes.

    Args:
        app: the routes.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._num_bytes = 0
        """Of the bodies of requests that are being answered, as they state it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            # A client that reads nothing holds its own connection, and that for a while only.
            async with asyncio.timeout(self._limits.timeout_seconds):
                await send(message)

        num_bytes = 0
        try:
            headers = dict(scope["headers"])
            self._access.check(scope["path"], headers)
            num_bytes = self._reserved(headers)
            await self._app(scope, self._in_time(receive), noting)
        except Exception as error:
            if not isinstance(error, Refused | TimeoutError):
                log.exception("a request failed")
            if not status:
                await answer_of(error)(scope, receive, noting)
        finally:
            self._num_bytes -= num_bytes
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, status, time.perf_counter() - started)

    def _reserved(self, headers: Mapping[bytes, bytes]) -> int:
        """Note the size of a body before it is read. Raises: Refused when it is too large, or with the others."""
        length = headers.get(b"content-length", b"")
        chunked = self._limits.max_body_bytes if b"transfer-encoding" in headers else 0
        size = int(length) if length.isdigit() else chunked
        if size > self._limits.max_body_bytes:
            raise too_large(self._limits)
        if self._num_bytes + size > _BODIES_AT_A_TIME * self._limits.max_body_bytes:
            raise overloaded("the requests of others are too large together. Try again in a moment.")
        self._num_bytes += size
        return size

    def _in_time(self, receive: Receive) -> Receive:
        is_read = False

        async def receiving() -> Message:
            nonlocal is_read
            if is_read:  # whether the client has vanished, which may take any time
                return await receive()
            try:
                async with asyncio.timeout(self._limits.timeout_seconds):
                    message = await receive()
            except TimeoutError as error:
                raise Refused(408, f"the body did not come within {self._limits.timeout_seconds:g} s.") from error
            is_read = not message.get("more_body", False)
            return message

        return receiving


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response of JSON, in which a number that is none is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False)
    content = text.encode("utf-8", "replace")
    return Response(content, status, dict(headers or {}), media_type="application/json")


def answer_of(error: Exception) -> Response:
    """Return the response to a request that failed or is refused: one line, in the form of OpenAI's errors."""
    found = refused(error)
    kind = "invalid_request_error" if found.status < 500 else "server_error"
    headers = {} if found.retry_after is None else {"retry-after": str(found.retry_after)}
    if found.status == 401:
        headers["www-authenticate"] = "Bearer"
    return as_json({"error": {"message": str(found), "type": kind, "code": None}}, found.status, headers)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
