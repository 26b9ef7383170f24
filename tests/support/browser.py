"""Chromium without a window, which a test types into; it is driven through a pipe, without another package."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import pytest

_SECONDS_TO_HANG = 120
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_CODES = {"Backspace": 8, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
_CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
CONTROL, SHIFT = 2, 8


@final
class Browser:
    """One page of a browser."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events = commands, events
        self._rest, self._number, self._session = b"", 0, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command of the DevTools protocol."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, or of what it promises."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        again = f"const again = () => ({condition}) ? done(true) : setTimeout(again, 5); again();"
        assert self.value(f"new Promise(done => {{ {again} }})")

    def open(self, url: str, ready: str) -> None:
        """Show a page, and wait until an expression is true there."""
        self.ask("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete' && ({ready})")

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press keys, each a character or a name such as Enter."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = _CODES.get(key, ord(key[0].upper()))
            own = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            if text and not modifiers & CONTROL:
                own |= {"text": text}
            self.ask("Input.dispatchKeyEvent", type="keyDown" if "text" in own else "rawKeyDown", **own)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    def look(self, width: int, scheme: str, height: int = 700) -> None:
        """Show the page at a width in pixels, `light` or `dark`."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def save(self, file: Path) -> None:
        """Write what is shown as an image."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS_TO_HANG
        while b"\0" not in self._rest:
            assert select.select([self._events], [], [], max(0.0, deadline - time.monotonic()))[0], "Chromium is silent"
            part = os.read(self._events, 2**20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with a profile in a folder; where there is none the test is skipped."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    (theirs_in, ours_out), (ours_in, theirs_out) = (map(_high, os.pipe()) for _ in range(2))
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
    files = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (1, 2)]
    pipes = [
        (os.POSIX_SPAWN_DUP2, theirs_in, 3),
        (os.POSIX_SPAWN_DUP2, theirs_out, 4),
    ]  # Chromium reads 3, and writes 4
    process = os.posix_spawn(program, command, os.environ, file_actions=[*files, *pipes])
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        own = Browser(ours_out, ours_in)
        yield own
        with suppress(AssertionError, BrokenPipeError):
            own.ask("Browser.close")
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        os.close(ours_out)
        os.close(ours_in)


def _high(file: int) -> int:
    """Return the number of another handle of an open file that is above those of a shell."""
    other = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(file)
    return other
