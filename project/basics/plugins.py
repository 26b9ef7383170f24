"""Modules outside of lightrail whose classes may be used: allowed by the user, or installed as a plugin.

A package registers itself by an entry point of the group `lightrail.plugins`, whose value is the module to import:

    [project.entry-points."lightrail.plugins"]
    similarity = "similarity"

Its classes, and those of its submodules, can then be named like lightrail's own.
"""

import importlib
import logging
import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)

GROUP = "lightrail.plugins"
ENVIRONMENT_VARIABLE = "LIGHTRAIL_ALLOW_MODULES"


def import_allowed(names: Iterable[str] = ()) -> tuple[str, ...]:
    """Import the given modules, those of LIGHTRAIL_ALLOW_MODULES, and all plugins. Returns: their names.

    Raises: ConfigError when a given module does not exist. A plugin that cannot be imported is skipped with a warning,
        so that runs that do not need it still work.
    """
    given = [*names, *os.environ.get(ENVIRONMENT_VARIABLE, "").split(",")]
    modules = dict.fromkeys(name.strip() for name in given if name.strip())
    for name in modules:
        _import_named(name)
    return (*modules, *(name for name in _import_plugins() if name not in modules))


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


def _import_named(name: str) -> None:
    """Import a module that the user allowed; it may be in the working folder."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--allow_modules {name}: there is no module {error.name}.") from error
