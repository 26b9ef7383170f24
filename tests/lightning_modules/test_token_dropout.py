"""Dropped tokens are hidden in training and nowhere else; windows of a text count alike."""

import pytest
import torch

from lightrail.lightning_modules.networks.encoders.embedding import TokenDropout
from lightrail.lightning_modules.networks.encoders.encoder import UNKNOWN
from lightrail.lightning_modules.text_classification import mean_over_windows
from lightrail.project.basics.errors import ConfigError

IDS = torch.randint(2, 90, (200, 30), generator=torch.Generator().manual_seed(0))
IS_TOKEN = torch.arange(30) < torch.randint(1, 31, (200, 1), generator=torch.Generator().manual_seed(1))


def test_tokens_of_our_vocabulary_become_unknown() -> None:
    ids, is_token = TokenDropout(0.3, has_unknown=True)(IDS, IS_TOKEN)
    changed = ids != IDS
    assert (ids[changed] == UNKNOWN).all()
    assert not changed[~IS_TOKEN].any(), "padding stays padding"
    assert float(changed[IS_TOKEN].float().mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(is_token, IS_TOKEN)


def test_a_pretrained_network_does_not_look_at_them() -> None:
    ids, is_token = TokenDropout(0.3, has_unknown=False)(IDS, IS_TOKEN)
    assert torch.equal(ids, IDS)
    assert is_token[:, 0].all(), "the first one stands for the whole text"
    assert not is_token[~IS_TOKEN].any()
    inner = IS_TOKEN[:, 1:]
    assert float(is_token[:, 1:][inner].float().mean()) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("has_unknown", [False, True])
def test_an_evaluation_sees_every_token(has_unknown: bool) -> None:
    ids, is_token = TokenDropout(0.3, has_unknown=has_unknown).eval()(IDS, IS_TOKEN)
    assert torch.equal(ids, IDS)
    assert torch.equal(is_token, IS_TOKEN)


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.token_dropout: expected a number .* below 1, found 1\.0"):
        TokenDropout(1.0, has_unknown=True)


def test_the_vector_of_a_text_is_the_mean_of_its_windows() -> None:
    vectors = torch.tensor([[1.0, 2], [3, 4], [10, 10], [5, 0]])
    found = mean_over_windows(vectors, torch.tensor([0, 0, 1, 0]), 2)
    torch.testing.assert_close(found, torch.tensor([[3.0, 2], [10, 10]]))
