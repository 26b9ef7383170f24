"""From vectors to labels: the head that classifiers of texts and of images share.

A task has one as `self.head`, and its `forward` returns `self.head.passes(lambda: ...)`, from vectors [B, D] to logits.

Shapes: B examples, D width, L labels, P passes through the network. Labels are [B] int64 or, where an example may have
several, [B, L] of 0 and 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightrail.lightning_modules.figures.figure import Bars, ConfusionMatrix, Figure, reliability
from lightrail.lightning_modules.heads.head import Head
from lightrail.lightning_modules.heads.label_loss import LabelLoss, LabelLossConfig
from lightrail.lightning_modules.metrics.calibration import fit_temperature, fit_thresholds
from lightrail.lightning_modules.metrics.label_scores import SEPARATOR, CalibrationError, label_scores
from lightrail.lightning_modules.metrics.scores import Columns, MacroF1, StoredScore
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.project.basics.annotations import ShareBelowOne, check_range
from lightrail.project.basics.did_you_mean import did_you_mean, first_names
from lightrail.project.basics.errors import ConfigError, shown


@final
class LabelHead(Head):
    """Turns vectors into labels: a linear layer with its loss, its calibration, and its predictions by name.

    Args:
        width: size of the vectors.
        labels: their names.
        label_counts: how often the training split has each.
        has_many: whether an example may have several labels, or none.
        dropout: fraction of a vector zeroed in training, in [0, 1).
        loss: options of the training loss.
    """

    temperature: Tensor
    """Divides the logits, []; 1 until calibrated."""
    thresholds: Tensor
    """Probability from which on a label is given, [L]; 0.5 until calibrated. Only where there may be several."""

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        label_counts: Sequence[int],
        *,
        has_many: bool,
        dropout: float,
        loss: LabelLossConfig,
    ) -> None:
        super().__init__()
        check_range(dropout, ShareBelowOne, "model.dropout")
        self.labels, self.has_many = list(labels), has_many
        self.num_passes = 2 if loss.r_drop else 1
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, len(labels))
        self.objective = LabelLoss(loss, labels, label_counts, has_many=has_many)
        self.register_buffer("temperature", torch.ones(()))
        if has_many:
            self.register_buffer("thresholds", torch.full((len(labels),), 0.5))

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the labels of the linear layer."""
        return {"linear.weight": (self.labels,), "linear.bias": (self.labels,)}

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the logits of vectors, [B, D] to [B, L], in float32 or wider."""
        logits: Tensor = self.linear(self.dropout(vectors))
        return at_least_float32(logits)  # [B, L]

    def passes(self, vectors: Callable[[], Tensor]) -> Tensor:
        """Compute the vectors, [B, D], and the logits: [B, L]; in training with R-Drop twice, [2, B, L]."""
        if not self.training or self.num_passes == 1:
            return self.forward(vectors())
        return torch.stack([self.forward(vectors()) for _ in range(self.num_passes)])

    def loss(self, outputs: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the mean loss over examples and their number: in training the changed one, else the plain one."""
        labels = batch["labels"]
        if self.training:
            passes = outputs if outputs.ndim == 3 else outputs[None]
            return self.objective.training_loss(passes, labels).mean(), len(labels)
        return self.losses(outputs, labels).mean(), len(labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the calibrated loss of each example in nats, [B]."""
        losses: Tensor = self.objective(logits / self.temperature, labels)
        return losses

    def scores(self) -> Mapping[str, StoredScore]:
        """Return the metrics of classification by name."""
        return label_scores(self.labels, has_many=self.has_many)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the calibrated probability of each label, [B, L]."""
        calibrated = logits / self.temperature
        return calibrated.sigmoid() if self.has_many else calibrated.softmax(-1)

    def is_predicted(self, probabilities: Tensor) -> Tensor:
        """Return whether each label is predicted, [B, L] bool."""
        if self.has_many:
            return probabilities >= self.thresholds
        return F.one_hot(probabilities.argmax(-1), len(self.labels)) > 0

    def asked_labels(self, logits: Tensor, name: str | None) -> list[tuple[str, int]]:
        """Return the label of a name, with its number; without a name those that the first row of logits predicts.

        Where none of several possible labels is predicted, it is the likeliest.

        Raises: ConfigError when there is no such label.
        """
        if name is not None:
            if name not in self.labels:
                raise ConfigError(
                    f"--label {shown(name)} is none of the {len(self.labels)} labels of the model "
                    f"({first_names(self.labels)}).{did_you_mean(name, self.labels)}"
                )
            return [(name, self.labels.index(name))]
        probabilities = self.probabilities(logits[:1])
        numbers = self.is_predicted(probabilities)[0].nonzero()[:, 0].tolist() or [int(probabilities.argmax())]
        return [(self.labels[number], number) for number in numbers]

    def confidences(self, probabilities: Tensor, is_predicted: Tensor) -> Tensor:
        """Return the probability that all of a prediction is right, [B]; several labels are taken as independent."""
        if self.has_many:
            return torch.where(is_predicted, probabilities, 1 - probabilities).prod(-1)
        return probabilities.amax(-1)

    def decode(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        """Return the columns `prediction`, `score`, `probabilities` and, with labels, `target` and `loss`."""
        return self._columns(outputs, batch.get("labels"))

    def column_types(self) -> dict[str, pa.DataType]:
        """Return the type of the column `probabilities`."""
        return {"probabilities": pa.list_(pa.float32())}

    def column_labels(self) -> dict[str, Sequence[str]]:
        """Return the labels that the entries of `probabilities` belong to."""
        return {"probabilities": self.labels}

    def figures(self, columns: Columns) -> Iterator[Figure]:
        """Yield reliability, precision, recall and F1 of each label and, with one label each, the confusions."""
        yield reliability(columns["score"], columns["prediction"], columns["target"])
        counter = MacroF1(labels=tuple(self.labels), separator=SEPARATOR if self.has_many else None)
        true_positives, predicted, expected = counter.counts(counter.statistics(columns).sum(0))
        yield Bars(
            name="labels",
            title="Labels",
            labels=self.labels,
            values={
                "precision": true_positives / np.maximum(predicted, 1),
                "recall": true_positives / np.maximum(expected, 1),
                "f1": 2 * true_positives / np.maximum(predicted + expected, 1),
            },
            counts=expected.astype(int),
            table="per_class",
            more={"threshold": self.thresholds.tolist()} if self.has_many else {},
        )
        if not self.has_many:
            targets, predictions = columns["target"], columns["prediction"]
            yield ConfusionMatrix(name="confusion_matrix", targets=targets, predictions=predictions)

    def calibration_rows(self, outputs: Tensor, batch: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Return the logits, [L], and the label of each example, on the CPU."""
        return list(zip(outputs.cpu(), batch["labels"].cpu(), strict=True))

    def calibrate(self, rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Fit the temperature and, where there may be several labels, then a threshold for each."""
        logits, labels = (torch.stack(own) for own in zip(*rows, strict=True))
        self.temperature.fill_(1.0)
        if self.has_many:
            self.thresholds.fill_(0.5)
        before = self._calibration_error(logits, labels)
        self.temperature.fill_(fit_temperature(logits, labels))
        if self.has_many:
            probabilities = self.probabilities(logits.to(self.temperature.device)).double().cpu().numpy()
            self.thresholds.copy_(torch.tensor(fit_thresholds(probabilities, labels.numpy() > 0)))
        return {
            "calibration/temperature": float(self.temperature),
            "calibration/ece_before": before,
            "calibration/ece_after": self._calibration_error(logits, labels),
        }

    def _calibration_error(self, logits: Tensor, labels: Tensor) -> float:
        columns = self._columns(logits.to(self.temperature.device), labels.to(self.temperature.device))
        return CalibrationError().of({name: np.array(columns[name]) for name in ("prediction", "target", "score")})

    def _columns(self, logits: Tensor, labels: Tensor | None) -> dict[str, Sequence[Any]]:
        probabilities = self.probabilities(logits)
        is_predicted = self.is_predicted(probabilities)
        columns: dict[str, Sequence[Any]] = {
            "prediction": self._names(is_predicted),
            "score": self.confidences(probabilities, is_predicted).tolist(),
            "probabilities": probabilities.tolist(),
        }
        if labels is not None:
            is_target = labels > 0 if self.has_many else F.one_hot(labels, len(self.labels)) > 0
            columns |= {"target": self._names(is_target), "loss": self.losses(logits, labels).tolist()}
        return columns

    def _names(self, is_named: Tensor) -> list[str]:
        """Return the labels of each row of [B, L], in the order of their names."""
        return [
            SEPARATOR.join(sorted(self.labels[number] for number, is_own in enumerate(row) if is_own))
            for row in is_named.tolist()
        ]
