"""Names of labels: which spellings are one label, and the id of each."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import DataError, shown


def plain_label(label: str) -> str:
    """Return a label in Unicode normal form C, without white space around it.

    A label is stored in either form and with stray blanks by different tools, which no reader can see: these spellings
    are one label. Case and width are kept: `lightrail check` warns of labels that differ in them alone.

    >>> plain_label(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    label = label.strip()
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def alike_labels(labels: Iterable[str]) -> list[list[str]]:
    """Group the labels that differ only in case, width, white space or invisible characters, or are one number.

    >>> alike_labels(["Good", "bad", "good", "go od", "1", "1.0"])
    [['1', '1.0'], ['Good', 'go od', 'good']]
    """
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(_folded(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _folded(label: str) -> str:
    folded = unicodedata.normalize("NFKC", label).casefold()
    folded = "".join(char for char in folded if not char.isspace() and unicodedata.category(char) != "Cf")
    return folded.rstrip("0").removesuffix(".") if _WHOLE_FLOAT.fullmatch(folded) else folded


_WHOLE_FLOAT = re.compile(r"-?\d+\.0+", re.ASCII)


class LabelNumbers:
    """The ids of labels by name, in any of a label's spellings."""

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = labels
        plain = {plain_label(label): number for number, label in enumerate(labels)}
        # The labels of a model that was trained by an earlier version may be in another spelling.
        self._numbers = {**plain, **{label: number for number, label in enumerate(labels)}}

    def number(self, label: str, where: str, rows: str = "rows") -> int:
        """Return the id of a label. Raises: DataError naming file and line (`where`) when it is not a label."""
        number = self._numbers.get(label, self._numbers.get(plain_label(label)))
        if number is None:
            near = next((known for known in self.labels if _folded(known) == _folded(label)), None)
            raise DataError(
                f"{where}: label {shown(label)} is none of the {len(self.labels)} of the training split "
                f"({first_names(self.labels)}){'' if near is None else f', which writes it {shown(near)}'}. "
                f"Fix the label, or add {rows} with it to the training data."
            )
        return number
