"""`lightrail serve`: a trained model over HTTP, for programs and for people."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType

import torch
import uvicorn
from starlette.types import ASGIApp

from lightrail.project.basics.annotations import check_range
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.hardware import set_threads, usable_accelerator
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.serving.guard import Access
from lightrail.project.serving.limits import Limits
from lightrail.project.serving.loading import load_served
from lightrail.project.serving.routes import build_app
from lightrail.project.tracking.processes import ENDING, handling
from lightrail.project.tracking.settings import TrackingConfig

log = logging.getLogger(__name__)

TOKEN = "LIGHTRAIL_TOKEN"
"""Environment variable of the token; on a command line other users of the machine can read it."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def run(arguments: list[str]) -> int:
    """Serve a model until a signal comes, then answer what was taken.

    Raises: ConfigError for an option, a port or a model that cannot be used; KeyboardInterrupt after Ctrl-C.
    """
    parser = OptionParser("serve")
    parser.add_argument("model", nargs="*")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for name in ("token", "device", "allow_modules"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    parser.add_argument("--insecure", action="store_true")
    for field in fields(Limits):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.read(arguments)
    if len(options.model) != 1:
        raise ConfigError(f"lightrail serve takes one model, found {len(options.model)}: lightrail serve RUN_ID.")
    for field in fields(Limits):
        check_range(getattr(options, field.name), field.type, f"--{field.name}")
    limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
    token = os.environ.get(TOKEN, "") if options.token is None else options.token
    access = _access(options.host, token, is_insecure=options.insecure)
    device = _device(options.device)
    with _listening(options.host, options.port) as listener:
        set_threads()
        modules = [own for own in (options.allow_modules or "").split(",") if own]
        tracking = TrackingConfig(uri=options.uri)
        served = load_served(options.model[0], tracking, limits, device, options.precision, modules)
        host, port = listener.getsockname()[:2]
        sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}/\n")
        sys.stdout.flush()
        log.info("serving %s; Ctrl-C stops the server", served.name)
        server = server_of(build_app(served, limits, access), limits)
        return _serve(server, listener)


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """Return the server of an application, which leaves signals and logging to its caller."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=max(1, int(limits.timeout_seconds)),
        )
    )


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _serve(server: uvicorn.Server, listener: socket.socket) -> int:
    """Serve until a signal comes, and until what was taken is answered; a second signal ends it at once."""
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        server.force_exit = bool(signals)
        signals.append(number)
        server.should_exit = True

    with handling(ENDING, stop):
        server.run(sockets=[listener])
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    return 0


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address, at any port for 0. Raises: ConfigError when that is not possible."""
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port is {port}. Give a number up to {2**16 - 1}, or 0 for any free one.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"--host {shown(host)} is no address: {first_line(error)}. Give one of this machine."
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1024)
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise ConfigError(
                f"--host {shown(host)} --port {port} cannot be used: {reason}. Choose another, or --port 0 for any."
            ) from error
        yield listener


def _access(host: str, token: str, *, is_insecure: bool) -> Access:
    """Return who may ask a server at an address. Raises: ConfigError where that would be anybody."""
    if token and (not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"the token has characters that no header can carry. Give letters and digits in {TOKEN}.")
    if host in LOOPBACK:
        return Access(token, frozenset(LOOPBACK))
    if not token and not is_insecure:
        raise ConfigError(
            f"--host {shown(host)} is reached from other machines: set {TOKEN} (or --token) to a secret that requests "
            "must carry, or --insecure to answer anybody."
        )
    return Access(token)


def _device(name: str | None) -> torch.device:
    if name not in (None, "cpu", "gpu"):
        raise ConfigError(f"--device is {shown(name)}. Give cpu or gpu, or leave it out.")
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--device is gpu, and PyTorch finds no GPU here. Give cpu, or leave it out.")
    return torch.device("cuda" if usable_accelerator(name or "auto") == "gpu" else "cpu")
