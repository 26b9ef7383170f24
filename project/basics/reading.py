"""The boundary for everything that is read: what a library raises about a file becomes one refusal naming the file."""

import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, Refusal, first_line, shown, without_password

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


@contextmanager
def reading(what: object, fix: str, *, refusal: type[Refusal] = ConfigError) -> Iterator[None]:
    """Turn any exception of the block into a refusal `WHAT: MESSAGE. FIX`; refusals pass unchanged.

    Libraries raise hundreds of types about damaged files, and further ones with each version: listing types misses
    some. Keep everything but the reading out of the block: a mistake of this package in it would be blamed on the file.

    Args:
        what: the file, or the setting and the file, that is read.
        fix: a sentence on what to do.
        refusal: type of the refusal: `DataError` for data, `ConfigError` for everything else.
    """
    try:
        yield
    except Refusal:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of libraries in Rust
            raise
        raise refusal(f"{what}: {first_line(error).rstrip('.')}. {fix}") from error


_UNHELPFUL = {
    "ignore_mismatched_sizes": "its weights have other sizes than its config.json states",
    "weights_only": "its weights are a pickle that is damaged or would run code, which is never done",
    "trust_remote_code": "it needs code of its own, which is never run: transformers alone must be able to load it",
}
"""What an error means whose message says something else, by a part of the message."""


def _damage(file: Path) -> str | None:
    """Say what is wrong with a file of a pretrained model; None where nothing can be seen."""
    if not file.is_file() or file.suffix not in (".json", ".safetensors", ".bin", ".model", ".txt", ".gguf"):
        return None
    try:
        with file.open("rb") as opened:
            head = opened.read(8)
            if head == b"version " and opened.read(64).startswith(b"https://git-lfs"):
                return f"{quoted_path(file)} is a pointer of git-lfs, not the file itself: run `git lfs pull` there"
            if file.suffix == ".json":
                content = json.loads(head + opened.read())
                shards = set(content["weight_map"].values()) if file.name.endswith(".index.json") else set()
                missing = sorted(name for name in shards if not (file.parent / name).is_file())
                return f"{quoted_path(file)} names {missing[0]}, which is missing" if missing else None
            if file.suffix == ".safetensors":
                length = int.from_bytes(head, "little")
                header = json.loads(opened.read(min(length, _MOST_HEADER_BYTES)))
                ends = [own["data_offsets"][1] for key, own in header.items() if key != "__metadata__"]
                size, expected = file.stat().st_size, 8 + length + max(ends, default=0)
                return f"{quoted_path(file)} has {size:,} of {expected:,} bytes" if size != expected else None
    except Exception as error:  # the content decides which
        return f"{quoted_path(file)} is damaged ({first_line(error).rstrip('.')})"
    return None


_MOST_HEADER_BYTES = 100_000_000
"""Limit that safetensors sets to the description of the tensors."""


def regular_file(path: Path, what: str, *, most_bytes: int | None = None, refusal: type[Refusal] = ConfigError) -> Path:
    """Return the path of a regular file (or of a link to one).

    Opening a pipe waits for a writer, and a device may never end: both are refused before they are opened.

    Args:
        what: the setting or kind of file, for the message.
        most_bytes: refuse a larger file before it is read into memory.

    Raises:
        Refusal: of the given type; it does not exist, may not be read, is no regular file, or is too large.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise refusal(f"{what}: {quoted_path(path)} cannot be read ({reason}). Check the path.") from error
    for is_kind, name in _KINDS.items():
        if is_kind(status.st_mode):
            raise refusal(f"{what}: {quoted_path(path)} is {name}; a file is needed. Name a file.")
    if not os.access(path, os.R_OK):
        raise refusal(f"{what}: {quoted_path(path)} may not be read. Change its permissions (chmod u+r).")
    if most_bytes is not None and status.st_size > most_bytes:
        sizes = f"{status.st_size:,} bytes; at most {most_bytes:,} make sense"
        raise refusal(f"{what}: {quoted_path(path)} has {sizes}. Name another file.")
    return path


def user_path(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder; one of a user who does not exist stays as it is."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises RuntimeError for that


def quoted_path(path: Path) -> str:
    """Return a path for a message, printable and at most 200 characters long; the end is what tells files apart."""
    text = "".join(char if char.isprintable() else "?" for char in str(path))
    return text if len(text) <= 200 else f"...{text[-197:]}"


_HUB_NAME = re.compile(r"(hf://|buckets/).*|[^\W.~-][\w.-]{0,95}(/[\w.-]{1,95})?", re.ASCII)
_HUB_SECONDS = 10.0


@contextmanager
def from_hub(what: str, name: str, fix: str, *, refusal: type[Refusal] = ConfigError) -> Iterator[None]:
    """Load something of Hugging Face by its name, or from a folder, in the block; whatever fails becomes one refusal.

    An unreachable hub is asked once, where its library waits for half a minute for each file. The block then runs as
    with HF_HUB_OFFLINE=1: what was downloaded before is used. Of a folder the refusal names the damaged file.

    Args:
        what: the setting, or the source, for the message.
        name: name on the hub, `OWNER/NAME`, or a folder.
        fix: a sentence on what to name instead.
        refusal: type of the refusal.
    """
    try:
        is_local = bool(name) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # such as a name of 5,000 characters, or `~nobody`
        is_local = False
    missing = f"no such folder here (the working folder is {quoted_path(Path.cwd())})"
    if not is_local and not _HUB_NAME.fullmatch(name):
        raise refusal(f"{what}: {shown(name, 200)} is no name on the Hugging Face hub, and {missing}. {fix}")
    unreachable = "" if is_local else _why_unreachable()
    found = f"{missing}, and {unreachable}" if unreachable else ""
    files = sorted(Path(name).expanduser().iterdir()) if is_local and Path(name).expanduser().is_dir() else []
    for file in _no_files(Path(name).expanduser()) if is_local else ():
        regular_file(file, what, refusal=refusal)
    where = f"{what}: {shown(name, 200)} cannot be loaded"
    try:
        with reading(where, fix, refusal=refusal), _offline(bool(unreachable)):
            yield
    except refusal as error:
        cause = error.__cause__
        if cause is None:  # a refusal from the block
            raise
        reasons = (meaning for part, meaning in _UNHELPFUL.items() if part in str(cause))
        reason = next(itertools.chain(filter(None, map(_damage, files)), reasons), None)
        reason = found if found and isinstance(cause, OSError) else reason
        raise (refusal(f"{where}: {reason}. {fix}") if reason else error) from cause


def _no_files(folder: Path) -> Iterator[Path]:
    """Yield pipes, devices and sockets in a folder, at any depth: whoever opens one may wait for ever."""
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root, name)
            if not file.is_file() and file.exists():
                yield file


def _why_unreachable() -> str:
    """Ask the hub once; return why it does not answer, "" if it does."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and it was not downloaded before; unset it, or name a local folder"
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # those of whichever HTTP library the hub's uses
        return (
            f"the hub {shown(without_password(constants.ENDPOINT))} cannot be reached ({first_line(error)}); check the "
            f"connection, set HF_ENDPOINT to another hub, HF_HUB_OFFLINE=1 to use only what was downloaded before, or "
            f"name a local folder"
        )
    return ""


@contextmanager
def _offline(is_needed: bool) -> Iterator[None]:
    """Set the libraries of Hugging Face to use only their caches for the block; they read the environment once."""
    modules = [sys.modules[name] for name in ("huggingface_hub.constants", "datasets.config") if name in sys.modules]
    held = [vars(module)["HF_HUB_OFFLINE"] for module in modules]
    try:
        for module in modules if is_needed else ():
            vars(module)["HF_HUB_OFFLINE"] = True
        yield
    finally:
        for module, own in zip(modules, held, strict=True):
            vars(module)["HF_HUB_OFFLINE"] = own
