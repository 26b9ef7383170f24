"""Changes of packages and hardware since a run that can affect its numbers."""

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from lightrail.project.provenance.recording import packages
from lightrail.project.reproducing.original import Original

OWN = "lightrail"
NOT_COUNTED_EXTRA = "dev"
NUM_SHOWN = 3
PYTHON = "Python"


class Version(NamedTuple):
    """A package, under its own spelling of its name."""

    name: str
    version: str


class PackageChange(NamedTuple):
    """A package whose version differs; None where it is not installed."""

    name: str
    then: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.then or 'not installed'} -> {self.now or 'not installed'}"


class PackageChanges(NamedTuple):
    """Changed packages: those that lightrail needs, directly or not, and the others."""

    counted: list[PackageChange]
    others: list[PackageChange]

    @property
    def notes(self) -> list[str]:
        """A line on the packages that lightrail does not need, if any."""
        if not self.others:
            return []
        more = f" and {len(self.others) - NUM_SHOWN} more" if len(self.others) > NUM_SHOWN else ""
        return [f"packages that lightrail does not need: {', '.join(map(str, self.others[:NUM_SHOWN]))}{more}"]


def package_changes(original: Original) -> PackageChanges:
    """Compare the installed packages and Python with those recorded by the run."""
    then, now, needed = _versions(original.packages), _versions(packages()), needed_packages()
    changes = [
        (name, PackageChange((now.get(name) or then[name]).name, _version(then, name), _version(now, name)))
        for name in sorted(then.keys() | now.keys())
        if name != OWN and _version(then, name) != _version(now, name)
    ]
    counts = {name for name, _ in changes if not needed or name in needed or name == PYTHON}
    return PackageChanges(
        [change for name, change in changes if name in counts],
        [change for name, change in changes if name not in counts],
    )


def needed_packages() -> set[str]:
    """Return lightrail's direct and indirect requirements, by normalized name; empty where it is not installed.

    Those of its extras count too, except for the development tools.
    """
    extras = set(metadata.metadata(OWN).get_all("Provides-Extra") or ()) if _is_installed(OWN) else set()
    found: set[tuple[str, str]] = set()
    waiting = {(OWN, ""), *((OWN, extra) for extra in extras - {NOT_COUNTED_EXTRA})}
    while waiting:
        name, extra = waiting.pop()
        found.add((name, extra))
        waiting |= set(_requirements(name, extra)) - found
    return {name for name, _ in found} - {OWN}


def _requirements(name: str, extra: str) -> list[tuple[str, str]]:
    """Return the requirements on this machine of a package with an extra, as pairs of package and extra."""
    needed = []
    for text in (metadata.requires(name) if _is_installed(name) else None) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed += [(_normal(requirement.name), inner) for inner in ("", *requirement.extras)]
    return needed


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _versions(text: str) -> dict[str, Version]:
    """Parse lines `name==version` under a line `# Python VERSION`, by normalized name."""
    # The text comes from the store, and ends up in a command for pip: no option or address is a name or a version.
    found = dict(re.findall(r"^(\w[\w.-]*)==([\w.!+-]+)$", text, flags=re.MULTILINE))
    python = re.search(rf"^# {PYTHON} ([\w.+-]+)$", text, flags=re.MULTILINE)
    own = {PYTHON: Version(PYTHON, python[1])} if python else {}
    return own | {_normal(name): Version(name, version) for name, version in found.items()}


def _version(versions: Mapping[str, Version], name: str) -> str | None:
    return versions[name].version if name in versions else None


def _normal(name: str) -> str:
    """Normalize a package name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


COUNTED = {
    "cpu": "processor",
    "physical_cores": "cores",
    "usable_cores": "usable cores",
    "threads": "threads",
    "instructions": "instructions",
    "arithmetic": "arithmetic libraries",
    "gpus": "GPUs",
    "visible_gpus": "visible GPUs",
}
"""Compared keys of `hardware.json`, and their names in the report."""


def hardware_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare the recorded hardware of a run with this machine; what was not recorded is left out."""
    if not then:
        return ["the run has no record of its hardware"]
    return [
        f"{name}: {_in_words(then, key)} -> {_in_words(now, key)}"
        for key, name in COUNTED.items()
        if key in then and _compared(then, key) != _compared(now, key)
    ]


def _compared(facts: Mapping[str, Any], key: str) -> Any:
    """Return the value to compare: of the GPUs granted by a scheduler their number, since their indices vary."""
    if key == "visible_gpus" and isinstance(facts[key], str):
        return len([name for name in facts[key].split(",") if name])
    return facts[key]


def _in_words(facts: Mapping[str, Any], key: str) -> str:
    value = _compared(facts, key)
    if key == "threads":
        return f"{value} (OMP_NUM_THREADS {facts.get('OMP_NUM_THREADS') or 'not set'})"
    if key == "visible_gpus" and value is None:
        return "all"
    return " + ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
