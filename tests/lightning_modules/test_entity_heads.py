"""Heads give entities and probabilities as an enumeration of all answers does, and never an illegal answer."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightrail.lightning_modules.metrics.calibration import fit_temperature
from lightrail.lightning_modules.networks.tagging.entity_head import EntityHead
from lightrail.lightning_modules.networks.tagging.span_head import SpanConfig, SpanHead
from lightrail.lightning_modules.networks.tagging.tag_head import CrfConfig, SoftmaxConfig, TagHead
from lightrail.lightning_modules.networks.tagging.tag_schemes import Scheme, Span, TagScheme
from lightrail.project.basics.errors import ConfigError

WIDTH, NUM_TYPES = 6, 2
LENGTHS = [5, 1, 3]
HEADS = [CrfConfig(), CrfConfig(scheme="bio"), SoftmaxConfig(), SoftmaxConfig(scheme="bio")]


def spread(head: EntityHead, seed: int = 0) -> EntityHead:
    """The head with random parameters, large enough to be sure of something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return head.eval()


def states_and_mask(seed: int = 1) -> tuple[Tensor, Tensor]:
    states = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))
    return states, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def flat_answers(num_words: int, first: int = 0) -> list[list[Span]]:
    """Every set of entities of a sentence that share no word."""
    if first == num_words:
        return [[]]
    answers = flat_answers(num_words, first + 1)
    for end in range(first + 1, num_words + 1):
        for kind in range(NUM_TYPES):
            answers += [[(first, end, kind), *rest] for rest in flat_answers(num_words, end)]
    return answers


def tags_of(spans: Sequence[Span], num_words: int, scheme: TagScheme) -> list[int]:
    """The tags of a sentence whose entities share no word."""
    tags = [0] * num_words
    for first, end, kind in spans:
        tags[first] = scheme.tag("B", kind)
        tags[first + 1 : end] = [scheme.tag("I", kind)] * (end - first - 1)
        if "E" in scheme.letters:
            tags[end - 1] = scheme.tag("S" if end - first == 1 else "E", kind)
    return tags


def bioes(spans: list[list[Span]]) -> Tensor:
    scheme = TagScheme("bioes", NUM_TYPES)
    rows = [
        tags_of(own, length, scheme) + [-1] * (max(LENGTHS) - length)
        for own, length in zip(spans, LENGTHS, strict=True)
    ]
    return torch.tensor(rows)


def enumerated(head: TagHead, scores: Tensor, mask: Tensor, number: int) -> list[tuple[list[Span], float]]:
    """Every answer for a sentence with its probability."""
    length = LENGTHS[number]
    answers = flat_answers(length)
    tags = torch.tensor([tags_of(answer, length, head.scheme) for answer in answers])
    emissions = scores[number, :length].expand(len(answers), -1, -1)
    logs = head.crf.log_likelihood(emissions, tags, torch.ones_like(tags, dtype=torch.bool))
    return list(zip(answers, logs.exp().tolist(), strict=True))


@pytest.mark.parametrize("config", HEADS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_are_sums_over_all_answers(config: Any, temperature: float) -> None:
    for seed in range(6):
        head = spread(config.build(WIDTH, NUM_TYPES, is_nested=False), seed)
        assert isinstance(head, TagHead)
        head.crf.temperature.fill_(temperature)
        states, mask = states_and_mask(seed)
        scores = head(states).detach()
        for number, found in enumerate(head.found(scores, mask)):
            answers = enumerated(head, scores, mask, number)
            assert sum(probability for _, probability in answers) == pytest.approx(1, abs=1e-4)
            best, probability = max(answers, key=lambda answer: answer[1])
            assert found.spans == best
            assert found.probability == pytest.approx(probability, abs=1e-5)
            expected = [sum(own for answer, own in answers if span in answer) for span in found.spans]
            assert found.probabilities == pytest.approx(expected, abs=1e-5)


def test_the_enumeration_had_entities_that_touch_and_some_that_end_before_a_word() -> None:
    """Else the test above would not see what is special about tags without an end."""
    answers = []
    for seed in range(6):
        head = spread(CrfConfig(scheme="bio").build(WIDTH, NUM_TYPES, is_nested=False), seed)
        states, mask = states_and_mask(seed)
        answers += head.spans(head(states), mask)
    assert any(one[1] == other[0] for own in answers for one, other in itertools.pairwise(own))
    assert any(end < 5 for own in answers for _, end, _ in own)


def test_without_learned_transitions_it_is_the_softmax_over_legal_sequences() -> None:
    head = spread(SoftmaxConfig().build(WIDTH, NUM_TYPES, is_nested=False))
    assert isinstance(head, TagHead)
    assert [name for name, _ in head.named_parameters()] == ["output.weight", "output.bias"]
    states, mask = states_and_mask()
    scores, spans = head(states).detach(), [[(0, 2, 1)], [], [(2, 3, 0)]]
    losses = head.losses(scores, {"tags": bioes(spans), "word_mask": mask})
    for number, (loss, length) in enumerate(zip(losses.tolist(), LENGTHS, strict=True)):
        tags = tags_of(spans[number], length, head.scheme)
        by_hand = [-scores[number, place].log_softmax(-1)[tag] for place, tag in enumerate(tags)]
        assert loss == pytest.approx(float(sum(by_hand)), rel=1e-5)


@pytest.mark.parametrize("name", ["bioes", "bio"])
@given(st.data())
def test_tags_say_the_same_as_spans_in_either_scheme(name: Scheme, data: st.DataObject) -> None:
    spans = data.draw(st.sampled_from(flat_answers(4)))
    scheme = TagScheme(name, NUM_TYPES)
    tags = tags_of(spans, 4, scheme)
    assert list(scheme.spans(tags)) == spans
    assert scheme.of_bioes()[torch.tensor(tags_of(spans, 4, TagScheme("bioes", NUM_TYPES)))].tolist() == tags
    assert is_legal(scheme, tags)


@pytest.mark.parametrize("name", ["bioes", "bio"])
def test_the_rules_allow_just_the_sequences_that_spell_entities(name: Scheme) -> None:
    scheme = TagScheme(name, NUM_TYPES)
    legal = [tags for tags in itertools.product(range(scheme.num_tags), repeat=3) if is_legal(scheme, list(tags))]
    assert sorted(legal) == sorted(tuple(tags_of(answer, 3, scheme)) for answer in flat_answers(3))


def is_legal(scheme: TagScheme, tags: list[int]) -> bool:
    rules = scheme.rules()
    moves = all(bool(rules.transitions[one, other]) for one, other in itertools.pairwise(tags))
    return bool(rules.starts[tags[0]]) and bool(rules.ends[tags[-1]]) and moves


def span_head(*, is_nested: bool, max_words: int = 3) -> SpanHead:
    head = SpanConfig(max_words=max_words, width=4).build(WIDTH, NUM_TYPES, is_nested=is_nested)
    assert isinstance(head, SpanHead)
    return head.eval()


def cells(found: dict[tuple[int, Span], float]) -> Tensor:
    """Scores: the logits given, and -8 in every other cell, padding and cells past the end included at +9."""
    scores = torch.full((len(LENGTHS), max(LENGTHS), 3, NUM_TYPES), -8.0)
    for number, length in enumerate(LENGTHS):
        for first, further in itertools.product(range(max(LENGTHS)), range(3)):
            if first + further >= length:
                scores[number, first, further] = 9.0
    for (number, (first, end, kind)), logit in found.items():
        scores[number, first, end - first - 1, kind] = logit
    return scores


FOUND = {(0, (0, 3, 0)): 3.0, (0, (1, 2, 1)): 2.0, (0, (2, 4, 1)): 1.0, (0, (1, 2, 0)): 0.5, (2, (2, 3, 1)): -0.2}


def test_nested_entities_stay_and_of_crossing_ones_the_more_probable() -> None:
    _, mask = states_and_mask()
    assert span_head(is_nested=True).spans(cells(FOUND), mask) == [[(0, 3, 0), (1, 2, 0), (1, 2, 1)], [], []]
    assert span_head(is_nested=False).spans(cells(FOUND), mask) == [[(0, 3, 0)], [], []]


def half(logit: float) -> float:
    """Probability of a logit at temperature 2."""
    return 1 / (1 + math.exp(-logit / 2))


def softplus(logit: float) -> float:
    return math.log1p(math.exp(logit))


def test_probabilities_of_spans_are_those_of_their_cells() -> None:
    _, mask = states_and_mask()
    head = span_head(is_nested=True)
    head.temperature.fill_(2.0)
    head.threshold.fill_(0.4)
    nested, alone, other = head.found(cells(FOUND), mask)
    assert other.spans == [(2, 3, 1)]
    assert other.probabilities == pytest.approx([half(-0.2)])
    assert nested.probabilities == pytest.approx([half(3.0), half(0.5), half(2.0)])
    assert alone.probability == pytest.approx(half(8.0) ** NUM_TYPES)
    num_cells = (3 + 2 + 1) * NUM_TYPES
    assert other.probability == pytest.approx(half(-0.2) * half(8.0) ** (num_cells - 1), rel=1e-5)


def test_scores_of_spans_depend_on_their_first_and_last_word_alone() -> None:
    head, (states, _) = spread(span_head(is_nested=True)), states_and_mask()
    before = head(states)
    states[0, 2] += 1.0
    is_changed = (head(states) - before)[0].abs().amax(-1) > 1e-6  # [W, M]
    ends = torch.arange(5)[:, None] + torch.arange(3)
    within = ends < 5
    assert torch.equal(is_changed & within, ((torch.arange(5)[:, None] == 2) | (ends == 2)) & within)


def test_the_loss_counts_cells_of_the_sentence_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    head, (_, mask) = span_head(is_nested=True), states_and_mask()
    spans = torch.tensor([[0, 0, 3, 0], [0, 0, 5, 1], [2, 2, 3, 1]])
    losses = head.losses(cells(FOUND), {"spans": spans, "word_mask": mask}).tolist()
    assert losses[1] == pytest.approx(2 * softplus(-8.0), rel=1e-4)
    assert losses[2] == pytest.approx(softplus(0.2) + 11 * softplus(-8.0), rel=1e-4)
    assert "an entity of 5 words cannot be found" in caplog.text


@pytest.mark.parametrize("config", HEADS, ids=str)
def test_calibration_undoes_what_made_a_model_too_sure(config: Any) -> None:
    """Tags are drawn from the model's own probabilities, and its scores then made three times as large."""
    head = spread(config.build(WIDTH, NUM_TYPES, is_nested=False), 3)
    assert isinstance(head, TagHead)
    generator = torch.Generator().manual_seed(0)
    head.output.weight.data.mul_(0.3)
    scores = head(torch.randn(400, 4, WIDTH, generator=generator)).detach()
    answers = flat_answers(4)
    paths = torch.tensor([tags_of(answer, 4, head.scheme) for answer in answers])
    rows = []
    for own in scores:
        mask = torch.ones_like(paths, dtype=torch.bool)
        logs = head.crf.log_likelihood(own.expand(len(paths), -1, -1), paths, mask)
        rows.append((3 * own, paths[int(torch.multinomial(logs.exp(), 1, generator=generator))]))
    for name in ("starts", "transitions", "ends"):
        getattr(head.crf, name).data.mul_(3)
    figures = head.calibrate(rows)
    assert figures["temperature"] == pytest.approx(3, rel=0.15)
    assert float(head.crf.temperature) == pytest.approx(figures["temperature"])
    assert figures["nats_per_sentence"] < figures["nats_per_sentence_before"]


def test_calibrating_spans_sets_temperature_and_threshold() -> None:
    head, generator = span_head(is_nested=True), torch.Generator().manual_seed(0)
    logits = torch.randn(50, 40, generator=generator) - 1.5
    rows = [(4 * own, torch.rand(40, generator=generator) < own.sigmoid()) for own in logits]
    figures = head.calibrate(rows)
    everything, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert figures["temperature"] == fit_temperature(everything[:, None], targets[:, None])
    assert figures["temperature"] == pytest.approx(4, rel=0.2)
    assert 0.2 < float(head.threshold) < 0.5  # F1 is best below one half where targets are rare
    assert figures["nats_per_sentence"] < figures["nats_per_sentence_before"]


def test_a_split_without_a_mistake_is_no_reason_to_be_certain() -> None:
    head = spread(CrfConfig().build(WIDTH, NUM_TYPES, is_nested=False))
    states, mask = states_and_mask()
    scores = head(states)
    tags = bioes(head.spans(scores, mask))
    assert head.calibrate(head.calibration_rows(scores, {"tags": tags, "word_mask": mask}))["temperature"] == 1


@pytest.mark.parametrize("name", ["max_words", "width"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"SpanConfig\.{name}: expected a whole number of at least 1, found 0"):
        SpanConfig(**{name: 0})
