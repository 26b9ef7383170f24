"""Findings from the data of a run: much of it was cut."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.base import DataModule
from lightrail.project.findings.finding import SIGNIFICANT, Evidence

MOST_CUT = 0.1
"""Fraction of cut training examples. `lightrail check` warns from 0.01 on, before anything is trained; at a tenth, what
is lost can show in the metrics."""
NUM_EXAMINED = 1_000
"""Number of examples of a split that are looked at: a fraction of 0.1 is then known to 0.01."""
LEAST_COMPARED = 20
"""Cut and whole test examples without which their losses are not compared."""


def inputs_cut(evidence: Evidence) -> str | None:
    """A large part of the training examples is cut, and the test examples that are cut have a higher loss.

    Cutting alone does no harm: of the shipped `text_classification` 18 % are cut, and their loss is the lower one.
    """
    train, test = (evidence.is_cut.get(split, np.zeros(0, bool)) for split in ("train", "test"))
    if not train.size or train.mean() <= MOST_CUT:
        return None
    losses = evidence.columns.get("loss", np.zeros(0))
    losses = losses[:: _step(len(losses))].astype(np.float64)
    if len(losses) != len(test) or min(test.sum(), (~test).sum()) < LEAST_COMPARED:
        return None
    cut, whole = losses[test], losses[~test]
    error = np.sqrt(cut.var() / len(cut) + whole.var() / len(whole))
    if not cut.mean() - whole.mean() > SIGNIFICANT * error:
        return None
    return (
        f"{100 * train.mean():.0f} % of the training examples are longer than data.max_length={evidence.max_length:,} "
        f"and were cut; cut test examples have a mean loss of {cut.mean():.4g}, others of {whole.mean():.4g}. "
        f"`lightrail check` tells what length would hold them"
    )


def cut_examples(data: DataModule, split: Literal["train", "test"]) -> NDArray[np.bool_]:
    """Return whether examples of a split are cut, [N], of at most `NUM_EXAMINED`, evenly spaced."""
    rows = data.rows(split)
    numbers = range(0, len(rows) if data.is_cut else 0, _step(len(rows)))
    return np.array([data.inspect(rows.row(number)).length > data.max_length for number in numbers], bool)


def _step(number: int) -> int:
    return max(1, -(-number // NUM_EXAMINED))
