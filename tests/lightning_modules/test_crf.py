"""The conditional random field agrees with an enumeration of all tag sequences."""

import itertools

import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.networks.tagging.crf import LinearChainCrf, TagRules

LENGTHS = [4, 1, 3]
NUM_TAGS = 3


def crf(*, is_free: bool = False, seed: int = 0) -> LinearChainCrf:
    """Random scores; unless free, tag 2 may not begin, 0 is not followed by 2, and 1 may not end."""
    starts, ends = torch.ones(NUM_TAGS, dtype=torch.bool), torch.ones(NUM_TAGS, dtype=torch.bool)
    transitions = torch.ones(NUM_TAGS, NUM_TAGS, dtype=torch.bool)
    if not is_free:
        starts[2] = ends[1] = transitions[0, 2] = False
    network = LinearChainCrf(TagRules(starts, transitions, ends))
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return network


def sentences(seed: int = 1) -> tuple[Tensor, Tensor]:
    emissions = torch.randn(len(LENGTHS), max(LENGTHS), NUM_TAGS, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return emissions, mask


@torch.no_grad()
def score(network: LinearChainCrf, emission: Tensor, tags: tuple[int, ...]) -> float:
    """Of one sequence, summed by hand; -inf against the rules."""
    total = float(network.starts[tags[0]] + network.ends[tags[-1]])
    total += sum(float(emission[place, tag]) for place, tag in enumerate(tags))
    is_legal = bool(network.starts_allowed[tags[0]]) and bool(network.ends_allowed[tags[-1]])
    for one, other in itertools.pairwise(tags):
        total += float(network.transitions[one, other])
        is_legal = is_legal and bool(network.transitions_allowed[one, other])
    return total / float(network.temperature) if is_legal else -torch.inf


def enumerated(network: LinearChainCrf, emission: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every tag sequence of a sentence, [W, K]."""
    sequences = list(itertools.product(range(NUM_TAGS), repeat=len(emission)))
    probabilities = torch.tensor([score(network, emission, tags) for tags in sequences]).softmax(0).tolist()
    return dict(zip(sequences, probabilities, strict=True))


@pytest.mark.parametrize("is_free", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_agrees_with_the_enumeration_of_all_sequences(is_free: bool, temperature: float) -> None:
    network = crf(is_free=is_free)
    network.temperature.fill_(temperature)
    emissions, mask = sentences()
    decoded = network.decode(emissions, mask)
    for number, length in enumerate(LENGTHS):
        probabilities = enumerated(network, emissions[number, :length])
        best = max(probabilities, key=lambda tags: probabilities[tags])
        assert tuple(decoded[number, :length].tolist()) == best
        for tags, probability in probabilities.items():
            padded = torch.zeros(1, max(LENGTHS), dtype=torch.long)
            padded[0, :length] = torch.tensor(tags)
            found = network.log_likelihood(emissions[number : number + 1], padded, mask[number : number + 1]).exp()
            assert found.item() == pytest.approx(probability, abs=1e-6)


def test_a_segment_is_as_probable_as_the_sequences_that_have_it() -> None:
    network = crf()
    emissions, mask = sentences()
    tags = network.decode(emissions, mask)
    segments = [(0, 0, 2), (0, 1, 4), (0, 0, 4), (1, 0, 1), (2, 2, 3)]
    found = network.segment_probabilities(emissions, tags, mask, torch.tensor(segments))
    for (sentence, first, end), probability in zip(segments, found.tolist(), strict=True):
        own = tuple(tags[sentence, first:end].tolist())
        all_tags = enumerated(network, emissions[sentence, : LENGTHS[sentence]])
        expected = sum(value for path, value in all_tags.items() if path[first:end] == own)
        assert probability == pytest.approx(expected, abs=1e-6)


def test_what_stands_at_padding_changes_nothing() -> None:
    network = crf()
    emissions, mask = sentences()
    tags = torch.zeros(mask.shape, dtype=torch.long)
    other = torch.where(mask[..., None], emissions, torch.full_like(emissions, 50.0))
    other_tags = torch.where(mask, tags, torch.full_like(tags, -1))
    torch.testing.assert_close(
        network.log_likelihood(other, other_tags, mask), network.log_likelihood(emissions, tags, mask)
    )
    assert torch.equal(network.decode(other, mask), network.decode(emissions, mask))


def test_gradients_are_those_of_the_enumeration_and_forbidden_moves_get_none() -> None:
    network = crf()
    emissions, mask = sentences()
    emissions.requires_grad_()
    network.log_partition(emissions, mask).sum().backward()  # type: ignore[no-untyped-call]
    assert emissions.grad is not None
    for number, length in enumerate(LENGTHS):
        probabilities = enumerated(network, emissions[number, :length].detach())
        for place, tag in itertools.product(range(length), range(NUM_TAGS)):
            expected = sum(value for path, value in probabilities.items() if path[place] == tag)
            assert float(emissions.grad[number, place, tag]) == pytest.approx(expected, abs=1e-5)
    assert network.transitions.grad is not None
    assert float(network.transitions.grad[0, 2]) == 0.0
    assert not emissions.grad[~mask].any()


def test_long_sentences_and_large_scores_stay_finite() -> None:
    network = crf()
    emissions = 200 * torch.randn(2, 600, NUM_TAGS, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 600, dtype=torch.bool)
    emissions.requires_grad_()
    likelihood = network.log_likelihood(emissions, network.decode(emissions, mask), mask)
    likelihood.sum().backward()  # type: ignore[no-untyped-call]
    assert likelihood.isfinite().all()
    assert (likelihood <= 1e-2).all()
    assert emissions.grad is not None
    assert emissions.grad.isfinite().all()
