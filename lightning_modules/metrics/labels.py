"""The metrics of classification while a model is evaluated.

Shapes: B examples of a batch, N of an evaluation, L labels, K bins.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightrail.lightning_modules.metrics.label_scores import CalibrationError, label_scores
from lightrail.lightning_modules.metrics.ranking import LabelRanking
from lightrail.lightning_modules.metrics.scores import LabelCounts, ShareEqual, StoredScore, Values


class LabelMetrics(Metric):
    """Adds up over batches and processes what the scores of stored predictions add up over examples.

    The values are theirs: torchmetrics' own classes (1.9) differ from them, and from scikit-learn, where a label is
    missing. Probabilities are kept, 8 L bytes for each example, for the measures that rank.
    """

    full_state_update = False
    counts: Tensor
    answers: Tensor
    bins: Tensor
    rows: list[Tensor]

    def __init__(self, labels: Sequence[str], *, has_many: bool) -> None:
        super().__init__()
        self.num_labels = len(labels)
        self.scores: Mapping[str, StoredScore] = label_scores(labels, has_many=has_many)
        self.error = CalibrationError()
        sizes = {"counts": (3, len(labels)), "answers": (2,), "bins": (3, self.error.num_bins)}
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, is_predicted: Tensor, is_target: Tensor, confidences: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: of each label, [B, L].
            is_predicted: whether it is in the answer, [B, L] bool.
            is_target: whether it should be, [B, L] bool.
            confidences: probability that the answer is right, [B].
        """
        is_right = (is_predicted == is_target).all(-1)  # [B]
        self.counts += torch.stack([(is_predicted & is_target).sum(0), is_predicted.sum(0), is_target.sum(0)])
        self.answers += torch.stack([is_right.sum(), is_right.new_ones(len(is_right), dtype=torch.long).sum()])
        confidences = confidences.double()  # as the stored ones are binned: float32 would round across an edge
        num_bins = self.error.num_bins
        places = (confidences * num_bins).nan_to_num().long().clamp(max=num_bins - 1)
        values = torch.stack([torch.ones_like(confidences), confidences, is_right.double()])  # [3, B]
        self.bins.index_add_(1, places, values)
        # Flat: a process without an example then has a state of as many dimensions as the others.
        self.rows.append(torch.cat([probabilities.float(), is_target.float()], dim=1).flatten())

    def compute(self) -> dict[str, Tensor]:
        """Each metric but the loss, 0-dimensional."""
        flat = dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0)
        rows = flat.reshape(-1, 2, self.num_labels).cpu().numpy()
        probabilities, is_target = rows[:, 0], rows[:, 1] > 0
        sums = {name: getattr(self, name).flatten().cpu().numpy() for name in ("counts", "answers", "bins")}
        values: dict[str, float] = {}
        for name, score in self.scores.items():
            if isinstance(score, LabelRanking):
                values[name] = score.mean(probabilities, is_target)
            elif isinstance(score, LabelCounts | ShareEqual | CalibrationError):
                values[name] = float(score.value(_sums_for(score, sums)))
        return {name: self.bins.new_tensor(value) for name, value in values.items()}


def _sums_for(score: LabelCounts | ShareEqual | CalibrationError, sums: Mapping[str, Values]) -> Values:
    if isinstance(score, LabelCounts):
        return sums["counts"]
    return sums["answers"] if isinstance(score, ShareEqual) else sums["bins"]
