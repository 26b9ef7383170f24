"""The contrast of sentence vectors: of pairs that mean the same with all others, or of pairs by their scores.

Shapes: N examples, n of them, P texts of each (text, pair, hard negative), D width, M candidates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.figures.figure import Curve, Figure
from lightrail.lightning_modules.heads.joint import JointHead, Rows
from lightrail.lightning_modules.metrics.ranking import Correlation, DiscountedGain, FoundAmongFirst, ReciprocalRank
from lightrail.lightning_modules.metrics.scores import Columns, StoredScore, WeightedMean
from lightrail.lightning_modules.networks.number_formats import at_least_float32

Similarity = Literal["cosine", "dot"]
_MOST_BINS = 10


class ContrastHead(JointHead):
    """Losses and predictions from the similarities of sentence vectors.

    Without scores the loss of a pair is InfoNCE: the cross-entropy of finding the pair's second text among those of all
    examples and the hard negatives, whose similarities are divided by a temperature. Equal texts are no negatives of
    each other. With scores it is log(1 + sum over pairs with a lower score of exp((their similarity - its) /
    temperature)), in which no pair counts that is scored as high.

    Sources: A. van den Oord et al. (2018), "Representation Learning with Contrastive Predictive Coding"; J. Su (2022),
    "CoSENT", whose sum over all ordered pairs is divided here by the higher-scored pair of each.
    """

    def __init__(self, *, temperature: float, is_symmetric: bool, has_scores: bool) -> None:
        super().__init__()
        self.temperature, self.is_symmetric, self.has_scores = temperature, is_symmetric, has_scores

    def rows(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return vectors, [N, P, D], ids, the keys of the texts, [N, P], and the scores, [N], of scored pairs."""
        rows = {"vectors": outputs, "id": torch.tensor(batch["id"], device=outputs.device), "keys": batch["keys"]}
        return rows | ({"target": batch["target"]} if "target" in batch else {})

    def losses(self, rows: Rows, own: Tensor) -> Tensor:
        vectors = at_least_float32(rows["vectors"])
        if "target" in rows:
            return ranking_losses(_of_pairs(vectors) / self.temperature, rows["target"], own)
        losses = _cross_entropy(self._logits(vectors, rows["keys"], own), own)
        if self.is_symmetric:  # the first texts are found by the second ones
            swapped, keys = vectors[:, [1, 0]], rows["keys"][:, [1, 0]]
            losses = (losses + _cross_entropy(self._logits(swapped, keys, own), own)) / 2
        return losses

    def decode(self, outputs: Tensor, batch: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Return the vector of each text, and where there are pairs of each second text."""
        vectors = outputs.float().cpu().numpy()  # [B, P, D]
        columns = {"vector": list(vectors[:, 0])}
        return columns | ({"pair_vector": list(vectors[:, 1])} if vectors.shape[1] > 1 else {})

    def columns(
        self, rows: Rows, own: Tensor, inputs: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Sequence[float] | Sequence[str]]:
        """Return similarity and score of scored pairs; else the text that is found, its probability, and the rank of
        the right one, in which a tie counts half.
        """
        if "target" in rows:
            return {
                "prediction": _of_pairs(rows["vectors"])[own].tolist(),
                "target": rows["target"][own].tolist(),
                "score": (-self.losses(rows, own)).exp().tolist(),
            }
        logits = self._logits(rows["vectors"], rows["keys"], own)  # [n, M]
        right = logits.gather(1, own[:, None])  # [n, 1]
        ranks = 1 + (logits > right).sum(1) + ((logits == right).sum(1) - 1) / 2
        candidates = [*inputs["pair"], *inputs.get("negative", ())]
        return {
            "prediction": [candidates[number] for number in logits.argmax(1).tolist()],
            "target": [inputs["pair"][number] for number in own.tolist()],
            "score": (logits.amax(1) - logits.logsumexp(1)).exp().tolist(),
            "rank": ranks.tolist(),
        }

    def scores(self) -> Mapping[str, StoredScore]:
        """Return loss and Spearman's and Pearson's correlation; without scores recall, MRR and nDCG."""
        loss = {"loss": WeightedMean(column="loss", higher_is_better=False)}
        if self.has_scores:
            return {**loss, "spearman": Correlation(of_ranks=True), "pearson": Correlation()}
        return {
            **loss,
            **{f"recall_at_{most}": FoundAmongFirst(most=most) for most in (1, 5, 10)},
            "mrr": ReciprocalRank(),
            "ndcg_at_10": DiscountedGain(most=10),
        }

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return that vectors are lists of float32."""
        return {"vector": pa.list_(pa.float32()), "pair_vector": pa.list_(pa.float32())}

    def figures(self, columns: Columns) -> Iterator[Figure]:
        """Yield the similarity by score; without scores the recall by the number of results."""
        if self.has_scores:
            order = np.argsort(columns["target"], kind="stable")
            bins = np.array_split(order, min(_MOST_BINS, len(order)))
            yield Curve(
                name="similarity_by_score",
                title="Similarity by score",
                note=f"{len(order):,} pairs, Spearman {Correlation(of_ranks=True).of(columns):.3f}",
                x=[columns["target"][own].mean() for own in bins],
                y=[columns["prediction"][own].mean() for own in bins],
                x_label="score",
                y_label="mean similarity",
            )
            return
        counts = np.unique(np.geomspace(1, max(1, len(columns["rank"])), 30).round())
        yield Curve(
            name="recall",
            title="Recall",
            note=f"{len(columns['rank']):,} queries, mean reciprocal rank {ReciprocalRank().of(columns):.3f}",
            x=counts,
            y=[FoundAmongFirst(most=int(count)).of(columns) for count in counts],
            x_label="results looked at",
            y_label="fraction of queries whose text is among them",
            is_logarithmic=True,
        )

    def _logits(self, vectors: Tensor, keys: Tensor, own: Tensor) -> Tensor:
        """Return similarities to the candidates over temperature, -inf for equal texts, [n, M].

        Candidates are the second texts of all examples, then their hard negatives.
        """
        candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)  # [M, D]
        logits = vectors[own, 0] @ candidates.T / self.temperature  # [n, M]
        names, num = keys[:, 1:].T.flatten(), len(keys)  # [M]
        first, second = keys[own, 0, None], keys[own, 1, None]  # [n, 1]
        is_same = (names == first) | (names == second)
        is_same[:, :num] |= keys[:, 0] == first  # what means the same as a text that is equal
        is_same[torch.arange(len(own), device=own.device), own] = False
        return logits.masked_fill(is_same, -math.inf)


def ranking_losses(similarities: Tensor, scores: Tensor, own: Tensor) -> Tensor:
    """Return the loss of each scored pair given all pairs, [n], in nats; see `ContrastHead`.

    >>> ranking_losses(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    tensor([0.0000, 0.6931])
    """
    differences = similarities[None] - similarities[own, None]  # [n, N]
    is_lower = scores[None] < scores[own, None]
    lower = differences.masked_fill(~is_lower, -math.inf)
    return torch.cat([lower.new_zeros(len(own), 1), lower], dim=1).logsumexp(1)


def _cross_entropy(logits: Tensor, own: Tensor) -> Tensor:
    return F.cross_entropy(logits, own, reduction="none")


def _of_pairs(vectors: Tensor) -> Tensor:
    """Return the similarity of the two texts of each pair, [N]."""
    return (vectors[:, 0] * vectors[:, 1]).sum(-1)
