"""Losses and scores of sentence vectors, against plain formulas and against torchmetrics and scipy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score
from torch import Tensor
from torchmetrics.retrieval import RetrievalNormalizedDCG, RetrievalRecall

from lightrail.lightning_modules.heads.contrast_head import ContrastHead, ranking_losses
from lightrail.lightning_modules.metrics.ranking import Correlation
from lightrail.lightning_modules.networks.encoders.row_dropout import RowDropout


def rows_of(vectors: Tensor, keys: Tensor | None = None, **more: Tensor) -> dict[str, Tensor]:
    """Rows of examples all of whose texts differ, unless keys are given."""
    own = torch.arange(vectors.shape[0] * vectors.shape[1]).view(vectors.shape[:2]) if keys is None else keys
    return {"vectors": vectors, "id": torch.arange(len(vectors)), "keys": own, **more}


def unit_vectors(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64), dim=-1)


def head(**settings: Any) -> ContrastHead:
    return ContrastHead(**{"temperature": 0.1, "is_symmetric": False, "has_scores": False, **settings})


def test_a_loss_is_the_cross_entropy_of_finding_the_pair_among_pairs_and_hard_negatives() -> None:
    vectors, own = unit_vectors(6, 3, 4), torch.tensor([1, 4])
    candidates = torch.cat([vectors[:, 1], vectors[:, 2]])
    expected = [-(vectors[n, 0] @ candidates.T / 0.1).log_softmax(-1)[n] for n in (1, 4)]
    assert head().losses(rows_of(vectors), own).tolist() == pytest.approx([float(one) for one in expected])


def test_a_symmetric_loss_is_the_mean_of_both_directions() -> None:
    vectors = unit_vectors(5, 2, 4)
    logits = vectors[:, 0] @ vectors[:, 1].T / 0.1
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    losses = head(is_symmetric=True).losses(rows_of(vectors), torch.arange(5))
    assert float(losses.mean()) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("changed", "hidden"),
    [
        ((1, 1, 0, 0), (0, 1)),  # the pair of 1 is the text of 0
        ((1, 1, 0, 1), (0, 1)),  # it is the pair of 0
        ((1, 2, 0, 1), (0, 4)),  # the hard negative of 1 is
        ((1, 0, 0, 0), (0, 1)),  # 1 has the text of 0, so that its pair means the same
    ],
)
def test_equal_texts_are_no_negatives_of_each_other(changed: tuple[int, ...], hidden: tuple[int, int]) -> None:
    vectors = unit_vectors(3, 3, 4)
    rows = rows_of(vectors)
    row, place, other, its_place = changed
    rows["keys"][row, place] = rows["keys"][other, its_place]
    logits = vectors[:, 0] @ torch.cat([vectors[:, 1], vectors[:, 2]]).T / 0.1
    logits[hidden] = -math.inf
    found = head().losses(rows, torch.tensor([0]))
    assert float(found) == pytest.approx(float(F.cross_entropy(logits[:1], torch.tensor([0]))))


def test_a_pair_of_one_text_twice_is_still_to_be_found() -> None:
    vectors, keys = unit_vectors(3, 2, 4), torch.tensor([[7, 7], [8, 8], [9, 9]])
    expected = F.cross_entropy(vectors[:, 0] @ vectors[:, 1].T / 0.1, torch.arange(3), reduction="none")
    losses = head().losses(rows_of(vectors, keys), torch.arange(3))
    assert losses.tolist() == pytest.approx(expected.tolist())


def test_a_ranking_loss_counts_pairs_that_are_scored_lower_alone() -> None:
    similarities, scores = [0.5, 0.2, 0.9, 0.4], [3.0, 1.0, 2.0, 3.0]
    expected = [
        math.log1p(sum(math.exp(similarities[j] - similarities[i]) for j in range(4) if scores[j] < scores[i]))
        for i in range(4)
    ]
    found = ranking_losses(torch.tensor(similarities), torch.tensor(scores), torch.arange(4))
    assert found.tolist() == pytest.approx(expected)
    assert found[1] == 0


def test_what_is_found_is_scored_as_torchmetrics_and_scikit_learn_do() -> None:
    vectors = unit_vectors(40, 2, 8)
    own, texts = torch.arange(40), [f"text {number}" for number in range(40)]
    columns = dict(head().columns(rows_of(vectors), own, {"pair": texts}))
    logits = vectors[:, 0] @ vectors[:, 1].T
    indexes, targets = own[:, None].expand(40, 40).flatten(), torch.eye(40, dtype=torch.bool).flatten()
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    scores = {name: score.of(arrays) for name, score in head().scores().items() if name != "loss"}
    others: dict[str, Any] = {f"recall_at_{most}": RetrievalRecall(top_k=most) for most in (1, 5, 10)}
    others["ndcg_at_10"] = RetrievalNormalizedDCG(top_k=10)
    for name, metric in others.items():
        expected = float(metric(logits.flatten().float(), targets, indexes=indexes))
        assert scores[name] == pytest.approx(expected, abs=1e-6)
    # With one right text the average precision is the reciprocal rank.
    assert scores["mrr"] == pytest.approx(label_ranking_average_precision_score(np.eye(40), logits.numpy()))
    assert columns["prediction"] == [texts[number] for number in logits.argmax(1).tolist()]
    assert 0 < scores["recall_at_1"] < scores["recall_at_10"] < 1


def test_a_tie_of_the_right_text_with_another_counts_half() -> None:
    same = torch.ones(3, 2, 2, dtype=torch.float64)
    assert head().columns(rows_of(same), torch.arange(3), {"pair": ["a", "b", "c"]})["rank"] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("of_ranks", "other"), [(True, stats.spearmanr), (False, stats.pearsonr)])
def test_a_correlation_is_that_of_scipy_with_ties(of_ranks: bool, other: Any) -> None:
    generator = np.random.default_rng(1)
    columns = {"prediction": generator.normal(size=50).round(1), "target": generator.integers(0, 5, 50)}
    expected = other(columns["prediction"], columns["target"]).statistic
    assert Correlation(of_ranks=of_ranks).of(columns) == pytest.approx(expected)
    assert math.isnan(Correlation(of_ranks=of_ranks).of({**columns, "target": np.ones(50)}))


def test_a_row_is_dropped_out_equally_in_any_batch_and_with_any_padding() -> None:
    keys, values = torch.tensor([3, 14, 15, 9]), torch.ones(4, 7, 6)
    with RowDropout(keys):
        whole, attention = F.dropout(values, 0.4), attend(values)
    with RowDropout(keys[1:3]):
        part, attended = F.dropout(values[1:3, :5], 0.4), attend(values[1:3])
    assert torch.equal(part, whole[1:3, :5])
    torch.testing.assert_close(attended, attention[1:3])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(attention[0], attention[1])


def attend(values: Tensor) -> Tensor:
    heads = values.view(len(values), 7, 2, 3).transpose(1, 2)  # [N, H, T, E]
    return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)


def test_attention_without_dropout_stays_what_it_is() -> None:
    values = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, True, True, False, True]).expand(5, 5)
    expected = F.scaled_dot_product_attention(values, values, values, attn_mask=mask)
    with RowDropout(torch.arange(3)):  # so little dropout that no weight is dropped
        found = F.scaled_dot_product_attention(values, values, values, attn_mask=mask, dropout_p=1e-9)
    torch.testing.assert_close(found, expected)


def test_masks_have_the_share_asked_for_and_rows_and_calls_are_independent() -> None:
    keys = torch.arange(400) * 1_000_003
    with RowDropout(keys):
        first, second = (F.dropout(torch.ones(400, 8, 16), 0.3) for _ in range(2))
        uniform = torch.rand((400, 128))
    dropped = (first == 0).double().flatten(1)
    assert float(dropped.mean()) == pytest.approx(0.3, abs=4 * (0.21 / dropped.numel()) ** 0.5)
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    assert float(dropped.mean(1).std()) == pytest.approx((0.21 / 128) ** 0.5, rel=0.15)
    assert float(dropped.mean(0).std()) == pytest.approx((0.21 / 400) ** 0.5, rel=0.25)
    agreement = ((first == 0) == (second == 0)).double().mean()
    assert float(agreement) == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.006)
    assert float(uniform.min()) == pytest.approx(0, abs=0.001)
    assert float(uniform.max()) == pytest.approx(1, abs=0.001)
    assert float(uniform.max()) < 1
