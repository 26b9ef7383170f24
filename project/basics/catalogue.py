"""What can be chosen: shipped experiments, sweeps, tasks, networks and data, read from the source without importing it;
and modules from outside, named by a person or installed as a plugin.

A package offers itself by an entry point of the group `lightrail.plugins`, whose value is the module to import:

    [project.entry-points."lightrail.plugins"]
    similarity = "similarity"

Its classes, and those of the modules below it, can then be named as lightrail's own.
"""

import ast
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from lightrail.project.basics.errors import ConfigError, first_line

ROOT = Path(__file__).resolve().parents[2]
"""The folder of `lightning_modules`, `datamodules`, `project` and `sweeps`: the checkout, or the installed package."""
FOLDERS = ("project", "datamodules", "lightning_modules", "sweeps")
"""Imported as parts of the package `lightrail`."""
GROUP = "lightrail.plugins"
"""The group of entry points by which an installed package offers its classes."""
ENVIRONMENT_VARIABLE = "LIGHTRAIL_ALLOW_MODULES"
"""Modules to import beside the plugins, separated by commas."""

IMPORTED: set[str] = set()
"""Packages of the modules from outside that were imported."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One line of `lightrail list`."""

    name: str
    summary: str


@dataclass(frozen=True)
class Component:
    """A class defined in one of lightrail's packages."""

    name: str
    module: str
    bases: tuple[str, ...]
    summary: str


def experiment_files(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the shipped experiments by name."""
    return {file.stem: file for file in sorted((root / "project" / "experiments").glob("*.yaml"))}


def form_for_words(experiment: Path) -> Path | None:
    """Return the file that stands for a shipped experiment on texts of words; None when it has no such form."""
    file = experiment.parent / "words" / experiment.name
    return file if file.is_file() else None


def sweep_files(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the shipped sweeps by name."""
    return {file.stem: file for file in sorted((root / "sweeps" / "definitions").glob("*.yaml"))}


def experiments(root: Path = ROOT) -> list[Entry]:
    """Return the shipped experiments, each with the first comment of its file."""
    return _commented(experiment_files(root))


def sweeps(root: Path = ROOT) -> list[Entry]:
    """Return the shipped sweeps, each with the first comment of its file."""
    return _commented(sweep_files(root))


def tasks(root: Path = ROOT) -> list[Entry]:
    """Return the task classes, each with the first line of its docstring."""
    return _derived_from({"TaskModule"}, components(root / "lightning_modules", root=root))


def networks(root: Path = ROOT) -> list[Entry]:
    """Return the network configuration classes, each with the first line of its docstring."""
    bases = {"EncoderConfig", "ImageEncoderConfig", "DecoderConfig"}
    return _derived_from(bases, components(root / "lightning_modules" / "networks", root=root))


def data_modules(root: Path = ROOT) -> list[Entry]:
    """Return the data module classes, each with the first line of its docstring."""
    return _derived_from({"DataModule"}, components(root / "datamodules", "*.py", root))


def plugin_classes() -> list[Entry]:
    """Return the tasks, networks and data modules of installed plugins, each with its class path."""
    bases = {"TaskModule", "EncoderConfig", "ImageEncoderConfig", "DecoderConfig", "DataModule"}
    entries = []
    for module in dict.fromkeys(entry_point.module for entry_point in entry_points(group=GROUP)):
        found = [*_plugin_components(module)]
        names = concrete_names(bases, found)
        entries += [Entry(f"{item.module}.{item.name}", item.summary) for item in found if item.name in names]
    return sorted(entries, key=lambda entry: entry.name)


def embedded_sets(root: Path = ROOT) -> list[Entry]:
    """Return the keys of the dict literal EMBEDDED in datamodules/reading/embedded.py, each with its description."""
    file = root / "datamodules" / "reading" / "embedded.py"
    if not file.is_file():
        return []
    for node in ast.parse(file.read_text("utf-8")).body:
        if "EMBEDDED" in _assigned_names(node) and isinstance(value := getattr(node, "value", None), ast.Dict):
            return [Entry(_text(key), _text(item)) for key, item in zip(value.keys, value.values, strict=True)]
    return []


def components(folder: Path, pattern: str = "**/*.py", root: Path = ROOT) -> Iterator[Component]:
    """Yield every class at the top level of the files of `folder`."""
    for file in sorted(folder.glob(pattern)):
        yield from _classes_of(file, _dotted("lightrail", file.relative_to(root)))


def _plugin_components(module: str) -> Iterator[Component]:
    """Yield the classes of a plugin's module and of those below it, without importing it; nothing if it is broken."""
    try:
        spec = importlib.util.find_spec(module)
        places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
        for file in (file for place in places for file in sorted(place.rglob("*.py"))):
            yield from _classes_of(file, _dotted(module, file.relative_to(places[0])))
        if spec and spec.origin and not places:
            yield from _classes_of(Path(spec.origin), module)
    except (ImportError, SyntaxError, ValueError, OSError) as error:
        log.warning("the plugin %s cannot be read and is left out: %s", module, first_line(error))


def _classes_of(file: Path, module: str) -> Iterator[Component]:
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield Component(node.name, module, tuple(map(_name, node.bases)), _first_line(ast.get_docstring(node)))


def _dotted(package: str, file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _commented(files: Mapping[str, Path]) -> list[Entry]:
    return [Entry(name, _first_comment(file.read_text("utf-8"))) for name, file in files.items()]


def _derived_from(bases: set[str], defined: Iterable[Component]) -> list[Entry]:
    own = list(defined)
    names = concrete_names(bases, own)
    return sorted((Entry(item.name, item.summary) for item in own if item.name in names), key=lambda entry: entry.name)


def concrete_names(bases: set[str], own: Sequence[Component]) -> set[str]:
    """Return the classes derived from `bases`, at one or two levels, that are no base of another class."""
    parents = bases | {item.name for item in own if bases.intersection(item.bases)}
    derived = {item.name for item in own if parents.intersection(item.bases)}
    return derived - {parent for item in own for parent in item.bases}


def _name(node: ast.expr) -> str:
    """Return the bare name of a base class: `Base` for `Base`, `package.Base` and `Base[int]`."""
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else ast.unparse(node)


def _assigned_names(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _text(node: ast.expr | None) -> str:
    """Return the text of a literal, or of a call's `description` argument, or else its first text argument."""
    if isinstance(node, ast.Constant):
        return _first_line(str(node.value))
    if not isinstance(node, ast.Call):
        return ""
    described = [keyword.value for keyword in node.keywords if keyword.arg == "description"]
    texts = [
        item for item in (*described, *node.args) if isinstance(item, ast.Constant) and isinstance(item.value, str)
    ]
    return _text(texts[0]) if texts else ""


def _first_comment(text: str) -> str:
    lines = (line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in lines if line), "")


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def import_allowed(names: Iterable[str] = ()) -> tuple[str, ...]:
    """Import the given modules, those of LIGHTRAIL_ALLOW_MODULES, and all plugins. Returns: their names.

    Raises: ConfigError when a given module does not exist. A plugin that cannot be imported is skipped with a warning,
        so that runs that do not need it still work.
    """
    given = [*names, *os.environ.get(ENVIRONMENT_VARIABLE, "").split(",")]
    modules = dict.fromkeys(name.strip() for name in given if name.strip())
    for name in modules:
        from_working_folder(name)
        _import_named(name)
    found = (*modules, *(name for name in _import_plugins() if name not in modules))
    IMPORTED.update(name.partition(".")[0] for name in found)
    return found


@cache
def _import_plugins() -> tuple[str, ...]:
    found = []
    for entry_point in entry_points(group=GROUP):
        try:
            importlib.import_module(entry_point.module)
        except Exception as error:  # a module may raise anything on import
            package = entry_point.dist.name if entry_point.dist else entry_point.name
            log.warning("the plugin %s (%s) cannot be imported and is left out: %s", entry_point.module, package, error)
        else:
            found.append(entry_point.module)
    return tuple(found)


def from_working_folder(module: str) -> None:
    """Let a module that the user named be imported from the working folder too, and note it for the record of code."""
    IMPORTED.add(module.partition(".")[0])
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def _import_named(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--allow_modules {name}: there is no module {error.name}.") from error
