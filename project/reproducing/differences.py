"""What is not as it was when a run was made, by kind."""

from collections.abc import Iterable
from dataclasses import dataclass, field

KINDS = ("code", "packages", "data", "configuration", "hardware")


@dataclass
class Differences:
    """What differs, in lines for a person to read. Only what may move a number counts."""

    counted: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    """What differs too, and moves no number."""

    def add(self, kind: str, lines: Iterable[str], notes: Iterable[str] = ()) -> None:
        self.counted[kind] += lines
        self.notes += notes

    @property
    def kinds(self) -> list[str]:
        """The kinds of which something differs."""
        return [kind for kind, lines in self.counted.items() if lines]

    def text(self, run_id: str) -> str:
        """Everything that differs from the time of the run, kind by kind."""
        notes = [f"not counted: {note}" for note in self.notes]
        if not self.kinds:
            same = f"{', '.join(KINDS[:-1])} and {KINDS[-1]}"
            return "\n".join([f"nothing differs from run {run_id}: same {same}", *notes])
        lines = [f"what differs from run {run_id} (then -> now):"]
        for kind in self.kinds:
            lines += [kind, *(f"  {line}" for line in self.counted[kind])]
        return "\n".join([*lines, *notes])
