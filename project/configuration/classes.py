"""The classes a configuration may name. A configuration is not trusted: it can name classes of a few packages only."""

import functools
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from lightrail.datamodules.own_loaders import OwnLoaders
from lightrail.project.basics.catalogue import (
    ENVIRONMENT_VARIABLE,
    ROOT,
    Component,
    components,
    concrete_names,
    from_working_folder,
    import_allowed,
)
from lightrail.project.basics.did_you_mean import did_you_mean
from lightrail.project.basics.errors import ConfigError, first_line, shown
from lightrail.project.basics.renamed import current_path

OWN_FOLDERS = ("lightning_modules", "datamodules", "sweeps")
OWN_PACKAGES = tuple(f"lightrail.{folder}" for folder in OWN_FOLDERS)
LIBRARIES = ("lightning", "torch", "torchmetrics", "optuna")

Bases: TypeAlias = tuple[type, ...]
"""Base classes, from one of which a class must be derived."""


class AllowedClasses:
    """Finds classes by name in lightrail's packages, the libraries, and the modules that the user allows.

    Args:
        modules: further modules or packages; those of the environment variable and plugins are added. A configuration
            cannot allow modules itself, since it is not trusted.
        chosen: class paths of model and data that the user typed, or that a file typed by the user names; their
            packages are allowed, unless they belong to Python itself.
    """

    def __init__(self, modules: Iterable[str] = (), chosen: Iterable[str] = ()) -> None:
        self.modules = import_allowed(modules)
        known = (*OWN_PACKAGES, *LIBRARIES, *self.modules)
        self.packages = (*known, *dict.fromkeys(_packages_of(chosen, known)))

    def find(self, name: str, bases: Bases, setting: str) -> type:
        """Return the concrete class of an import path or a bare name.

        Args:
            bases: the class must be derived from one of them.
            setting: the dotted setting, for the message.

        Raises:
            ConfigError: there is no such class, it is not allowed, or it has another base.
        """
        if len(name) > 200 or not name.isprintable():
            raise ConfigError(f"{setting}: there is no class {shown(name)}. Give the name of a class.")
        name = self._today(name)
        found = self._by_path(name, bases, setting) if "." in name else self._by_name(name, bases, setting)
        if not issubclass(found, bases):
            expected = " or ".join(f"a {base.__name__}" for base in bases)
            raise ConfigError(f"{setting}: {name} is not {expected}.{self._hint(name, bases)}")
        if inspect.isabstract(found):
            raise ConfigError(f"{setting}: {name} is abstract: choose one derived from it.{self._hint('', bases)}")
        return found

    def knows(self, name: str, bases: Bases) -> bool:
        """Whether `name` refers to a class: by a path in an allowed package, or by the bare name of a class."""
        return self._is_allowed(self._today(name)) if "." in name else any(self._named(name, bases))

    def _today(self, name: str) -> str:
        """Return the current path for one of version 0.1.0, unless the user allowed a module of that name."""
        return name if name.startswith(tuple(f"{module}." for module in self.modules)) else current_path(name)

    def _by_path(self, name: str, bases: Bases, setting: str) -> type:
        if not self._is_allowed(name):
            raise ConfigError(
                f"{setting}: {name} is outside the packages a configuration may name ({', '.join(self.packages)}). "
                f"Allow a module of your own with --allow_modules MODULE or {ENVIRONMENT_VARIABLE}."
            )
        found = _attribute(name, setting)
        if found is None:
            raise ConfigError(f"{setting}: there is no class {name}.{self._hint(name, bases)}")
        if not isinstance(found, type):
            raise ConfigError(f"{setting}: {name} is not a class. A configuration can name classes only.")
        if not self._is_allowed(import_path(found)):
            raise ConfigError(f"{setting}: {name} is {import_path(found)}, outside the packages it may name.")
        return found

    def _by_name(self, name: str, bases: Bases, setting: str) -> type:
        found = list(dict.fromkeys(self._named(name, bases)))
        if not found:
            raise ConfigError(f"{setting}: there is no class {name!r}.{self._hint(name, bases)}")
        if len(found) > 1:
            paths = " or ".join(import_path(item) for item in found[:3])
            raise ConfigError(f"{setting}: {name} could be {paths}. Give the full path.")
        return found[0]

    def _named(self, name: str, bases: Bases) -> Iterator[type]:
        """Yield lightrail's class of this name, imported or not, and imported ones of all allowed packages."""
        own = (_attribute(f"{item.module}.{name}", name) for item in _own_components() if item.name == name)
        allowed = (getattr(sys.modules[module], name, None) for module in self.modules)
        yield from (item for item in (*own, *allowed) if isinstance(item, type))
        yield from (item for item in self._imported(bases) if item.__name__ == name)

    def _imported(self, bases: Bases) -> Iterator[type]:
        """Yield public classes of allowed packages that are already imported, as all of Lightning's callbacks are."""
        for found in (*bases, *_descendants(bases)):
            if self._is_allowed(import_path(found)) and found.__qualname__.isidentifier() and found.__name__[0] != "_":
                yield found

    def _is_allowed(self, path: str) -> bool:
        return any(path.startswith(f"{package}.") for package in self.packages)

    def _hint(self, name: str, bases: Bases) -> str:
        imported = {
            item.__name__
            for item in self._imported(bases)
            if not (item in bases or inspect.isabstract(item) or item is OwnLoaders)
        }
        return did_you_mean(name.rpartition(".")[2], imported | _own_names(bases))


def _packages_of(paths: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    for path in map(current_path, paths):
        package, is_path = path.partition(".")[0], "." in path
        is_known = path.startswith(tuple(f"{own}." for own in known)) or package == "lightrail"
        if is_path and not is_known and package.isidentifier() and package not in sys.stdlib_module_names:
            from_working_folder(package)
            yield package


def import_path(found: type) -> str:
    """Return the import path of a class, `module.Class`."""
    return f"{found.__module__}.{found.__qualname__}"


def import_class(path: str) -> type:
    """Import the class at a path that `AllowedClasses` has found."""
    module, _, name = path.rpartition(".")
    if (package := path.partition(".")[0]) not in ("lightrail", *LIBRARIES):  # in the process of a trial it is new
        from_working_folder(package)
    found: type = getattr(importlib.import_module(module), name)
    return found


def _attribute(path: str, setting: str) -> object:
    """Return the attribute `module.name`, None without such a module or attribute."""
    # The module is imported by name, never reached through another's attribute: `torch.os.system` is not found.
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            return None
        raise ConfigError(f"{setting}: {path} needs {error.name}, which is not installed.") from error
    except ImportError as error:
        raise ConfigError(f"{setting}: {module} cannot be imported: {first_line(error)}.") from error


@functools.cache
def _own_components() -> tuple[Component, ...]:
    return tuple(component for folder in OWN_FOLDERS for component in components(ROOT / folder))


def _own_names(bases: Bases) -> set[str]:
    """Return the names of lightrail's classes derived from `bases`, without importing them."""
    return concrete_names({base.__name__ for base in bases}, _own_components())


def descendants_of(bases: Bases) -> tuple[type, ...]:
    """Import lightrail's classes derived from `bases`, and return them."""
    own = (import_class(f"{item.module}.{item.name}") for item in _own_components() if item.name in _own_names(bases))
    return tuple(found for found in dict.fromkeys(own) if issubclass(found, bases))


def _descendants(bases: Bases) -> Iterator[type]:
    for base in bases:
        children: Bases = tuple(type.__subclasses__(base))
        yield from children
        yield from _descendants(children)
