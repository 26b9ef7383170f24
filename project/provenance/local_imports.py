"""Which files of a folder a module there brings along, read from its text: some are imported only later in the run."""

import ast
from collections.abc import Iterable, Iterator, Set
from functools import lru_cache
from pathlib import Path, PurePath


def with_imports(folder: Path, names: Iterable[str], known: Set[str]) -> set[str]:
    """Add to files of `folder` all others there that they import, directly or not, anywhere in their text.

    Args:
        names: `package/module.py`, relative to `folder`.
        known: further files, in the result too, into which one need not look.
    """
    found = set(known)
    waiting = set(names) - found
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= {file for module in _modules(folder, name) for file in _files(folder, module)} - found
    return found


def _modules(folder: Path, name: str) -> Iterator[tuple[str, ...]]:
    """What a file may import; of `from a import b`, `b` may be a module or not."""
    try:
        imports = _imports((folder / name).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = PurePath(name).parent.parts
    for level, module in imports:
        yield (*package[: len(package) - level + 1], *module) if level else module


@lru_cache(maxsize=1024)  # a run asks twice, and trials ask for the same files again
def _imports(text: bytes) -> list[tuple[int, tuple[str, ...]]]:
    """What a text may import: each by its level, 0 for what is absolute, and its name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            found += [(node.level, (*base, *alias.name.split("."))) for alias in node.names]
    return found


def _files(folder: Path, module: tuple[str, ...]) -> Iterator[str]:
    """The files that importing a module runs, as far as they are in the folder: its packages' first."""
    for length in range(1, len(module) + 1):
        path = Path(*module[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if (folder / file).is_file():
                yield file.as_posix()
