"""The files that the code of a run is in: lightrail's own, and those of modules a user brought along with what they
import.
"""

import ast
import hashlib
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from functools import lru_cache
from pathlib import Path, PurePath
from types import ModuleType
from typing import NamedTuple

from lightrail.project.basics.catalogue import FOLDERS, ROOT
from lightrail.project.basics.logs import OWN_PACKAGE


def with_imports(folder: Path, names: Iterable[str], known: Set[str]) -> set[str]:
    """Add to files of `folder` all others there that they import, directly or not, anywhere in their text.

    Args:
        names: `package/module.py`, relative to `folder`.
        known: further files, in the result too, into which one need not look.
    """
    found = set(known)
    waiting = set(names) - found
    there = {entry.name.removesuffix(".py") for entry in folder.iterdir()}
    seen: set[tuple[str, ...]] = set()  # most imports are met again and again, or lead elsewhere
    while waiting:
        name = waiting.pop()
        found.add(name)
        modules = {module for module in _modules(folder, name) if module and module[0] in there} - seen
        seen |= modules
        waiting |= {file for module in modules for file in _files(folder, module)} - found
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


class SourceFolder(NamedTuple):
    """A folder that packages are imported from."""

    folder: Path
    files: list[str]
    """Relative to the folder, `package/module.py`."""

    def digests(self) -> dict[str, str]:
        """Digest the content of each file."""
        return {name: digest_of_content((self.folder / name).read_bytes()) for name in self.files}


def digest_of_content(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def source_folders() -> list[SourceFolder]:
    """Return lightrail's own folder first, then those of other modules in memory which are not installed packages.

    Call it when the classes of the configuration have been imported.
    """
    own = {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    found = {ROOT: own}
    brought: dict[Path, set[str]] = defaultdict(set)
    for folder, name in _imported_files():
        brought[folder].add(name)
    for folder, names in brought.items():
        found[folder] = with_imports(folder, names, known=found.get(folder, set()))
    return [SourceFolder(folder, sorted(files)) for folder, files in found.items()]


def _imported_files() -> Iterator[tuple[Path, str]]:
    """The folder and the relative name of each module's file, as far as its name tells them."""
    installed = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not isinstance(file, str) or name in ("__main__", "__mp_main__") or name.split(".")[0] == OWN_PACKAGE:
            continue
        if file.startswith(installed) or "/site-packages/" in file or "/dist-packages/" in file:
            continue
        relative = Path(*name.split("."))
        for candidate in (relative.with_suffix(".py"), relative / "__init__.py"):
            if Path(file).parts[-len(candidate.parts) :] == candidate.parts and Path(file).is_file():
                yield Path(file).absolute().parents[len(candidate.parts) - 1], candidate.as_posix()
