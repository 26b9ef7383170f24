"""Each change of the training loss does what it says, and none of them touches an evaluation."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss, recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from lightrail.lightning_modules.heads.label_head import LabelHead
from lightrail.lightning_modules.heads.label_loss import LabelLoss, LabelLossConfig, label_weights
from lightrail.project.basics.errors import ConfigError

LABELS = ["a", "b", "c"]


def examples(number: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, 3], one label for each, and a set of labels for each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number, 3, generator=generator)
    return logits, torch.arange(number) % 3, (torch.rand(number, 3, generator=generator) < 0.5).float()


def objective(has_many: bool = False, **settings: Any) -> LabelLoss:
    return LabelLoss(LabelLossConfig(**settings), LABELS, [1, 2, 9], has_many=has_many)


def test_the_plain_loss_is_that_of_sklearn() -> None:
    logits, labels, sets = examples()
    probabilities = logits.double().softmax(-1).numpy()
    assert float(objective()(logits, labels).mean()) == pytest.approx(log_loss(labels.numpy(), probabilities))
    own = objective(has_many=True)(logits, sets)
    each = [log_loss(sets[:, number], logits.double().sigmoid()[:, number], labels=[0, 1]) for number in range(3)]
    assert float(own.mean()) == pytest.approx(sum(each))


@pytest.mark.parametrize("has_many", [False, True])
def test_without_settings_training_minimises_what_an_evaluation_reports(has_many: bool) -> None:
    logits, labels, sets = examples()
    own, targets = objective(has_many), sets if has_many else labels
    torch.testing.assert_close(own.training_loss(logits[None], targets), own(logits, targets))


@pytest.mark.parametrize("has_many", [False, True])
@pytest.mark.parametrize(
    "changed", [{"label_smoothing": 0.3}, {"class_weights": "balanced"}, {"focal_gamma": 2.0}, {"r_drop": 1.0}]
)
def test_an_evaluation_reports_the_plain_loss(has_many: bool, changed: dict[str, Any]) -> None:
    logits, labels, sets = examples()
    targets, other = sets if has_many else labels, torch.flip(logits, [0])
    plain, own = objective(has_many), objective(has_many, **changed)
    torch.testing.assert_close(own(logits, targets), plain(logits, targets), rtol=0, atol=0)
    passes = torch.stack([logits, other])
    assert not torch.allclose(own.training_loss(passes, targets), plain.training_loss(passes, targets))


def test_smoothing_is_that_of_torch() -> None:
    logits, labels, sets = examples()
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(objective(label_smoothing=0.2).training_loss(logits[None], labels), expected)
    of_sets = objective(has_many=True, label_smoothing=0.2).training_loss(logits[None], sets)
    torch.testing.assert_close(
        of_sets, F.binary_cross_entropy_with_logits(logits, 0.8 * sets + 0.1, reduction="none").sum(-1)
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_loss_equals_its_formula(gamma: float) -> None:
    logits, labels, sets = examples()
    probabilities = logits.softmax(-1)[torch.arange(12), labels]
    expected = -((1 - probabilities) ** gamma) * probabilities.log()
    torch.testing.assert_close(objective(focal_gamma=gamma).training_loss(logits[None], labels), expected)
    right = torch.where(sets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    of_sets = objective(has_many=True, focal_gamma=gamma).training_loss(logits[None], sets)
    torch.testing.assert_close(of_sets, (-((1 - right) ** gamma) * right.log()).sum(-1))


@pytest.mark.parametrize("has_many", [False, True])
def test_the_focal_loss_has_a_gradient_where_an_answer_is_certain(has_many: bool) -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0, 0]]) if has_many else torch.tensor([0])
    objective(has_many, focal_gamma=0.5).training_loss(logits[None], targets).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_those_of_sklearn() -> None:
    names = np.array(["a"] * 1 + ["b"] * 2 + ["c"] * 9)
    expected = compute_class_weight("balanced", classes=np.array(LABELS), y=names)
    weights = label_weights("balanced", LABELS, list(Counter(names.tolist()).values()))
    assert weights == pytest.approx(expected.tolist())


def test_weights_have_a_mean_of_one_over_the_training_split() -> None:
    counts = [1, 2, 9]
    weights = label_weights({"a": 5.0, "c": 0.5}, LABELS, counts)
    assert weights[0] / weights[2] == pytest.approx(10)
    assert weights[1] / weights[2] == pytest.approx(2), "a label left out has the weight 1"
    assert sum(weight * count for weight, count in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))


def test_weights_multiply_the_loss_of_their_label() -> None:
    logits, labels, sets = examples()
    weights = torch.tensor(label_weights("balanced", LABELS, [1, 2, 9]))
    own = objective(class_weights="balanced").training_loss(logits[None], labels)
    torch.testing.assert_close(own, weights[labels] * F.cross_entropy(logits, labels, reduction="none"))
    of_sets = objective(has_many=True, class_weights="balanced").training_loss(logits[None], sets)
    expected = F.binary_cross_entropy_with_logits(logits, sets, pos_weight=weights, reduction="none").sum(-1)
    torch.testing.assert_close(of_sets, expected)


def test_the_divergence_of_two_passes_is_that_of_kullback_and_leibler() -> None:
    logits, _, _ = examples()
    other = torch.flip(logits, [0])
    one, two = torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=other)
    expected = torch.distributions.kl_divergence(one, two) + torch.distributions.kl_divergence(two, one)
    torch.testing.assert_close(objective().divergence(logits, other), expected / 2)
    first, second = torch.distributions.Bernoulli(logits=logits), torch.distributions.Bernoulli(logits=other)
    of_sets = torch.distributions.kl_divergence(first, second) + torch.distributions.kl_divergence(second, first)
    torch.testing.assert_close(objective(has_many=True).divergence(logits, other), of_sets.sum(-1) / 2)


@pytest.mark.parametrize("has_many", [False, True])
def test_r_drop_costs_nothing_without_dropout_and_something_with_it(has_many: bool) -> None:
    _, labels, sets = examples()
    targets = sets if has_many else labels
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    losses = {}
    for dropout in (0.0, 0.5):
        for weight in (0.0, 4.0):
            torch.manual_seed(3)
            own = head(has_many=has_many, dropout=dropout, r_drop=weight)
            torch.manual_seed(4)
            losses[dropout, weight] = float(own.loss(own.passes(lambda: vectors), {"labels": targets})[0].detach())
    assert losses[0.0, 4.0] == losses[0.0, 0.0]
    assert losses[0.5, 4.0] > losses[0.5, 0.0]


def test_an_evaluation_takes_one_pass() -> None:
    own, vectors = head(dropout=0.5, r_drop=1.0), torch.randn(4, 8)
    assert own.passes(lambda: vectors).shape == (2, 4, 3)
    assert own.eval().passes(lambda: vectors).shape == (4, 3)


def head(has_many: bool = False, dropout: float = 0.0, counts: list[int] | None = None, **settings: Any) -> LabelHead:
    loss = LabelLossConfig(**settings)
    return LabelHead(8, LABELS, counts or [4, 4, 4], has_many=has_many, dropout=dropout, loss=loss)


def rare_and_frequent() -> tuple[Tensor, Tensor]:
    """Overlapping clouds of 20, 200 and 200 points."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 20 + [1] * 200 + [2] * 200)
    centres = 0.9 * F.one_hot(labels, 8).float()
    return centres + torch.randn(420, 8, generator=generator), labels


def recalls(**settings: Any) -> list[float]:
    vectors, labels = rare_and_frequent()
    torch.manual_seed(0)
    own = head(counts=[20, 200, 200], **settings)
    optimizer = torch.optim.Adam(own.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        own.loss(own(vectors), {"labels": labels})[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    predicted = own.eval()(vectors).argmax(-1)
    found: list[float] = recall_score(labels, predicted, average=None).tolist()
    return found


def test_balanced_weights_find_more_of_a_rare_label() -> None:
    plain, balanced = recalls(), recalls(class_weights="balanced")
    assert balanced[0] > plain[0] + 0.2
    assert min(plain[1:]) > 0.6, "what is compared has learned something"


def test_the_focal_loss_lets_go_of_what_is_known() -> None:
    logits = torch.tensor([[4.0, 0, 0], [0.2, 0, 0]])
    labels = torch.tensor([0, 0])
    plain, focal = (objective(focal_gamma=gamma).training_loss(logits[None], labels) for gamma in (0.0, 2.0))
    assert focal[0] / focal[1] < 0.01 * plain[0] / plain[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"LabelLossConfig\.label_smoothing: expected a number .* below 1, found 1\.0"),
        ({"focal_gamma": -1.0}, "LabelLossConfig.focal_gamma: expected a number of at least 0, found -1.0"),
        ({"r_drop": float("nan")}, "LabelLossConfig.r_drop: expected a number of at least 0, found NaN"),
        ({"class_weights": {"x": 1.0}}, r"'x' is none of the labels \(a, b, c\)"),
        (
            {"class_weights": {"a": -1.0}},
            r'expected .* mapping \(each a number of at least 0\), found {"a": -1.0}',
        ),
        ({"class_weights": {"a": 0.0, "b": 0.0, "c": 0.0}}, "all labels weigh 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**settings)


def test_a_dropout_of_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout: expected a number .* below 1, found 1\.0"):
        head(dropout=1.0)


def test_the_weights_are_no_part_of_a_checkpoint() -> None:
    assert isinstance(objective(), nn.Module)
    assert not objective(class_weights="balanced").state_dict()
