"""Modules from outside of lightrail whose classes may be used: named by a person, or installed as a plugin.

A package offers itself by an entry point of the group `lightrail.plugins`, whose value is the module to import:

    [project.entry-points."lightrail.plugins"]
    similarity = "similarity"

Its classes, and those of the modules below it, can then be named as lightrail's own.
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
    """Import modules that a person named, those of the environment variable, and all plugins; give their names.

    Raises: ConfigError when a module that was named does not exist. A plugin that cannot be imported is left out with a
        warning: what does not need it goes on working.
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
        except Exception as error:  # whatever a module does when it is imported
            package = entry_point.dist.name if entry_point.dist else entry_point.name
            log.warning("the plugin %s (%s) cannot be imported and is left out: %s", entry_point.module, package, error)
        else:
            found.append(entry_point.module)
    return tuple(found)


def _import_named(name: str) -> None:
    """Import a module a person allowed; it may lie in the working folder."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--allow_modules {name}: there is no module {error.name}.") from error
