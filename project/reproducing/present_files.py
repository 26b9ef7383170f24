"""Where Python would find a file of the code now."""

import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def present_file(name: str) -> Path | None:
    """Return the file that would be imported for `package/module.py`, without importing it."""
    top, *inner = Path(name).parts
    spec = _spec(top.removesuffix(".py"))
    if spec is None:
        return None
    if inner:
        candidates = [Path(folder, *inner) for folder in spec.submodule_search_locations or ()]
    else:
        candidates = [Path(spec.origin)] if spec.origin else []
    return next((file for file in candidates if file.is_file()), None)


def _spec(package: str) -> ModuleSpec | None:
    """Where a package is; also in the working folder, from which modules that are allowed are imported."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: it is in memory, and does not tell where it is from
        found = None
    return found or PathFinder.find_spec(package, [str(Path.cwd())])
