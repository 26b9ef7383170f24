"""Changes to files: bytes of their content, and something else in their place."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def files_below(path: Path) -> list[Path]:
    """List the files of a folder at any depth in a fixed order; or the file itself."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def damage_bytes(file: Path, chance: random.Random) -> None:
    """Change the content of a file at random, without looking at what it means."""
    content = bytearray(file.read_bytes())
    chance.choice(_OF_BYTES)(content, chance)
    file.write_bytes(content)


def _flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 8, 64])):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _flip_head(content: bytearray, chance: random.Random) -> None:
    for _ in range(4):
        if content:
            content[chance.randrange(min(64, len(content)))] = chance.randrange(256)


def _truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def _empty(content: bytearray, _: random.Random) -> None:
    content.clear()


_INSERTED = (b"\0" * 64, b"\xef\xbb\xbf", b"\xff\xff", b"\n\n", b"\r", b'"', b"[" * 10**5, b"x" * 10**5)


def _insert(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    content[place:place] = chance.choice(_INSERTED)


def _remove(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    del content[place : place + chance.choice([1, 16, 1024])]


def _repeat(content: bytearray, _: random.Random) -> None:
    content.extend(bytes(content))


def _recode(content: bytearray, chance: random.Random) -> None:
    text = content.decode("utf-8", errors="replace")
    content[:] = text.encode(chance.choice(["utf-16", "utf-32", "gb18030", "latin-1"]), errors="replace")


_OF_BYTES = (_flip, _flip, _flip_head, _truncate, _truncate, _empty, _insert, _insert, _remove, _repeat, _recode)


def replace_file(file: Path, chance: random.Random) -> None:
    """Put something else where a file is expected."""
    chance.choice(_IN_ITS_PLACE)(file, chance)


def _nothing(file: Path, _: random.Random) -> None:
    file.unlink()


def _folder(file: Path, _: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path, _: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def _device(file: Path, chance: random.Random) -> None:
    file.unlink()
    file.symlink_to(chance.choice(["/dev/zero", "/dev/null", "/dev/urandom"]))


def _loop(file: Path, _: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _dangling(file: Path, _: random.Random) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _unreadable(file: Path, _: random.Random) -> None:
    file.chmod(0)


def _other_file(file: Path, chance: random.Random) -> None:
    """Put another file of the working folder in its place."""
    others = [other for other in files_below(Path()) if other != file]
    if others:
        shutil.copyfile(chance.choice(others), file)


_IN_ITS_PLACE = (
    _nothing,
    _folder,
    _pipe,
    _device,
    _loop,
    _dangling,
    _unreadable,
    _other_file,
    _other_file,
    _other_file,
)
