"""The files that the code of a run is in: lightrail's own, and those of modules a user brought along."""

import hashlib
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.basics.logs import OWN_PACKAGES
from lightrail.project.provenance.local_imports import with_imports


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
    own = {file.relative_to(ROOT).as_posix() for package in OWN_PACKAGES for file in (ROOT / package).rglob("*.py")}
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
        if not isinstance(file, str) or name in ("__main__", "__mp_main__") or name.split(".")[0] in OWN_PACKAGES:
            continue
        if file.startswith(installed) or "/site-packages/" in file or "/dist-packages/" in file:
            continue
        relative = Path(*name.split("."))
        for candidate in (relative.with_suffix(".py"), relative / "__init__.py"):
            if Path(file).parts[-len(candidate.parts) :] == candidate.parts and Path(file).is_file():
                yield Path(file).absolute().parents[len(candidate.parts) - 1], candidate.as_posix()
