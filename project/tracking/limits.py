"""Limits on what a tracking server may answer: size and time. A server is a stranger, and may be slow or broken too."""

import _thread
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from mlflow.utils.request_utils import TCPKeepAliveHTTPAdapter
from requests import PreparedRequest, Response
from requests.exceptions import ReadTimeout, RequestException
from typing_extensions import override

from lightrail.project.basics.private_names import use_adapter

MAX_ANSWER_BYTES = 256 * 2**20
"""Maximum size of an answer that is read into memory, decompressed."""
MAX_ANSWER_SECONDS = 600.0
"""Maximum time of such an answer, and until the first byte of a file."""
MIN_BYTES_PER_SECOND = 1024
"""Minimum speed of a file, in either direction, after the first minute."""
FIRST_SECONDS = 60.0
MARGIN_BYTES = 64 * 2**20
"""A file may be larger than announced by this and as much again: it may have been replaced since."""

_file_bytes: ContextVar[int] = ContextVar("file_bytes", default=2**63)

Result = TypeVar("Result")


@contextmanager
def file_of(num_bytes: int) -> Iterator[None]:
    """Within the block, refuse to download a file that is much larger than announced."""
    token = _file_bytes.set(2 * num_bytes + MARGIN_BYTES)
    try:
        yield
    finally:
        _file_bytes.reset(token)


class BoundedAdapter(TCPKeepAliveHTTPAdapter):  # type: ignore[misc] # MLflow's is not typed
    """Sends MLflow's requests; an answer that is too large or too slow raises an exception of `requests`."""

    @override
    def send(self, request: PreparedRequest, stream: bool = False, *args: Any, **kwargs: Any) -> Response:
        sent = int(request.headers.get("Content-Length") or 0)
        seconds = MAX_ANSWER_SECONDS + sent / MIN_BYTES_PER_SECOND
        send = super().send
        response: Response = _within(seconds, lambda: send(request, stream, *args, **kwargs))
        is_file = stream and not response.is_redirect  # `requests` reads the body of a redirect into memory
        response.raw.stream = _Body(response.raw, _file_bytes.get() if is_file else MAX_ANSWER_BYTES, is_file).stream
        return response


def bound_answers() -> None:
    """Apply the limits to all requests of MLflow in this process."""
    use_adapter(BoundedAdapter)


def _within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of a call, made in another thread, which is left behind when it takes too long."""
    # The libraries limit the time of one read, and a server that sends a byte a minute never reaches it.
    results: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # no further thread is possible: better without a limit than not at all
        return call()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise ReadTimeout(f"no answer within {seconds:.0f} seconds") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class _Body:
    """The body of an answer, which ends with an exception when it is too large or too slow."""

    def __init__(self, raw: Any, max_bytes: int, is_file: bool) -> None:
        self._raw, self._stream = raw, raw.stream
        self._max_bytes, self._is_file = max_bytes, is_file
        self._num_bytes, self._since = 0, time.monotonic()
        self._is_done, self._is_late = threading.Event(), threading.Event()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Yield the parts of the body, as the method of the same name of urllib3's answers."""
        self._since = time.monotonic()
        with suppress(RuntimeError):  # no further thread is possible
            _thread.start_new_thread(self._watch, ())
        try:
            for part in self._stream(*args, **kwargs):
                self._num_bytes += len(part)
                if self._num_bytes > self._max_bytes:
                    break
                yield part
        except Exception:
            if not self._is_late.is_set():
                raise
        finally:
            self._is_done.set()
        if self._is_late.is_set():
            raise ReadTimeout(f"the answer was not complete after {time.monotonic() - self._since:.0f} seconds")
        if self._num_bytes > self._max_bytes:
            self._raw.close()
            raise RequestException(f"the answer is larger than {self._max_bytes:,} bytes")

    def _watch(self) -> None:
        while not self._is_done.wait(min(1.0, MAX_ANSWER_SECONDS / 4)):
            seconds = FIRST_SECONDS + self._num_bytes / MIN_BYTES_PER_SECOND if self._is_file else MAX_ANSWER_SECONDS
            if time.monotonic() - self._since > seconds:
                self._is_late.set()
                with suppress(Exception):  # it may have ended at this moment
                    self._raw.shutdown()  # ends the read that waits in the other thread
                return
