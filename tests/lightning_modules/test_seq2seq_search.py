"""Beam search: what it finds does not depend on the batch, and is what an exhaustive search finds."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.networks.seq2seq.decoding import DecodingConfig
from lightrail.lightning_modules.networks.seq2seq.network import Memory, Seq2Seq, Seq2SeqConfig, Vocabulary
from lightrail.lightning_modules.networks.seq2seq.recurrent import RecurrentSeq2SeqConfig
from lightrail.lightning_modules.networks.seq2seq.search import beam_search
from lightrail.lightning_modules.networks.seq2seq.transformer import TransformerSeq2SeqConfig

START, END, PAD, SIZE = 0, 1, 2, 7
TARGET = Vocabulary(size=SIZE, start_id=START, end_id=END, never=(START, PAD))
SOURCE = Vocabulary(size=9, start_id=0, end_id=1)
NETWORKS: dict[str, Seq2SeqConfig] = {
    "transformer": TransformerSeq2SeqConfig(width=16, encoder_depth=1, decoder_depth=2, num_heads=2, is_tied=False),
    "tied": TransformerSeq2SeqConfig(width=16, encoder_depth=1, decoder_depth=1, num_heads=2),
    "lstm": RecurrentSeq2SeqConfig(width=16, is_tied=False),
    "gru": RecurrentSeq2SeqConfig(cell="gru", width=16, depth=2, attention="additive", is_tied=False),
    "unfed": RecurrentSeq2SeqConfig(width=16, feeds_attention=False, is_tied=False),
    "ngrams": RecurrentSeq2SeqConfig(width=16, is_tied=False, ngram_orders=[2], ngram_buckets=64, ngram_width=8),
}
SENTENCES = [[3, 4, 5, 6, 7, 8, 3, 1], [5, 1], [8, 8, 2, 1], [4, 6, 3, 7, 5, 1]]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Seq2Seq:
    torch.manual_seed(5)
    built = NETWORKS[request.param].build(SOURCE, TARGET, is_shared=False).eval()
    for weight in built.parameters():  # so that predictions differ clearly
        weight.data *= 2.5
    return built


def read(network: Seq2Seq, sentences: list[list[int]]) -> Memory:
    longest = max(map(len, sentences))
    ids = torch.tensor([own + [PAD] * (longest - len(own)) for own in sentences])
    is_token = torch.tensor([[place < len(own) for place in range(longest)] for own in sentences])
    with torch.no_grad():
        return network.encode(ids, is_token)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_sentence_gets_the_same_targets_alone_and_in_a_batch(network: Seq2Seq, num_beams: int) -> None:
    config = DecodingConfig(num_beams=num_beams, num_best=num_beams, max_tokens=12, max_ratio=1.0, max_more=2)
    together = beam_search(network, read(network, SENTENCES), config)
    alone = [beam_search(network, read(network, [own]), config)[0] for own in SENTENCES]
    assert [[one.ids for one in own] for own in together] == [[one.ids for one in own] for own in alone]
    for own, other in zip(together, alone, strict=True):
        assert [one.log_probability for one in own] == pytest.approx([one.log_probability for one in other], abs=1e-4)


def test_steps_give_the_scores_of_the_whole_target(network: Seq2Seq) -> None:
    memory = read(network, SENTENCES)
    decoder_ids = torch.tensor([[START, 3, 4, 5], [START, 6, 6, 3], [START, 5, 3, 4], [START, 4, 4, 4]])
    with torch.no_grad():
        whole = network.score(memory, decoder_ids)
        cache = network.start_cache(memory)
        steps = torch.stack([network.step(decoder_ids[:, place], cache) for place in range(4)], dim=1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-5)


def test_with_beams_enough_the_best_of_all_targets_is_found(network: Seq2Seq) -> None:
    """Among all targets of at most three tokens."""
    longest = 3
    memory = read(network, SENTENCES[:2])
    config = DecodingConfig(num_beams=60, num_best=1, length_penalty=0.0, max_tokens=longest + 1, max_more=10)
    found = beam_search(network, memory, config)
    tokens = [number for number in range(SIZE) if number not in (START, END, PAD)]
    targets = [list(own) for length in range(longest + 1) for own in itertools.product(tokens, repeat=length)]
    for number, own in enumerate(found):
        best = max((log_probability(network, memory.select(torch.tensor([number])), one), one) for one in targets)
        assert own[0].ids == best[1]
        assert own[0].log_probability == pytest.approx(best[0], abs=1e-4)


def log_probability(network: Seq2Seq, memory: Memory, target: list[int]) -> float:
    labels = torch.tensor([[*target, END]])
    with torch.no_grad():
        scores = network.score(memory, network.decoder_ids(labels))
    scores[..., [START, PAD]] = -math.inf
    return float(scores.log_softmax(-1).gather(2, labels[..., None]).sum())


def test_padding_and_the_start_are_never_produced_though_they_score_best(network: Seq2Seq) -> None:
    def preferring(newest: Tensor, cache: object) -> Tensor:
        scores = step(newest, cache).clone()
        scores[:, [START, PAD]] = 100.0
        return scores

    step, network.step = network.step, preferring  # type: ignore[method-assign]
    found = beam_search(network, read(network, SENTENCES), DecodingConfig(num_beams=2, num_best=2, max_tokens=6))
    assert all({START, PAD}.isdisjoint(one.ids) for own in found for one in own)


def test_a_target_that_reaches_its_limit_is_marked(network: Seq2Seq) -> None:
    def endless(newest: Tensor, cache: object) -> Tensor:
        scores = step(newest, cache).clone()
        scores[:, END] = -100.0
        return scores

    step, network.step = network.step, endless  # type: ignore[method-assign]
    config = DecodingConfig(num_beams=2, max_ratio=1.0, max_more=1, max_tokens=8)
    found = [own[0] for own in beam_search(network, read(network, SENTENCES), config)]
    assert [(len(one.ids), one.is_cut) for one in found] == [(8, True), (3, True), (5, True), (7, True)]


def test_a_target_begins_with_the_code_of_its_language() -> None:
    torch.manual_seed(0)
    target = Vocabulary(size=SIZE, start_id=START, end_id=END, before=(6,))
    network = NETWORKS["lstm"].build(SOURCE, target, is_shared=False).eval()
    seen: list[list[int]] = []

    def watching(newest: Tensor, cache: object) -> Tensor:
        seen.append(newest.tolist())
        return step(newest, cache)

    step, network.step = network.step, watching  # type: ignore[method-assign]
    found = beam_search(network, read(network, SENTENCES[:1]), DecodingConfig(num_beams=2, max_tokens=5))
    assert seen[1][0] == 6
    assert len(found[0][0].ids) < 5


def test_only_allowed_tokens_are_produced(network: Seq2Seq) -> None:
    def allow(numbers: list[int], tokens: Tensor) -> Tensor:
        allowed = torch.zeros(len(tokens), SIZE, dtype=torch.bool)
        for row, number in enumerate(numbers):
            allowed[row, END if tokens.shape[1] == 2 else 3 + number] = True
        return allowed

    found = beam_search(network, read(network, SENTENCES), DecodingConfig(num_beams=3), allow)
    assert [own[0].ids for own in found] == [[3, 3], [4, 4], [5, 5], [6, 6]]


def test_attention_to_the_source_sums_to_one_and_leaves_padding_out(network: Seq2Seq) -> None:
    memory = read(network, SENTENCES)
    with torch.no_grad():
        weights = network.attention(memory, torch.tensor([[START, 3, 4]] * 4))  # [B, T, S]
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    assert not weights[~memory.is_token[:, None].expand_as(weights)].any()


A, B = 3, 4
SCRIPT = {(): {A: 0.6, END: 0.3}, (A,): {B: 0.6, END: 0.3}, (A, B): {END: 0.99}}
"""Probability of the next token after some prefixes; all others share the rest."""


class Prefixes:
    """A cache that keeps the tokens so far."""

    def __init__(self, tokens: list[list[int]]) -> None:
        self.tokens = tokens

    def select(self, rows: Tensor) -> "Prefixes":
        return Prefixes([[*self.tokens[row]] for row in rows.tolist()])


def test_a_search_goes_on_while_a_prefix_is_better_than_targets_that_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two poor targets end before the best one does."""
    network = NETWORKS["tied"].build(SOURCE, TARGET, is_shared=False).eval()

    def step(newest: Tensor, cache: Prefixes) -> Tensor:
        rows = []
        for prefix, token in zip(cache.tokens, newest.tolist(), strict=True):
            prefix.extend([token] * (token != START))
            given = SCRIPT.get(tuple(prefix), {})
            rest = (1 - sum(given.values())) / (SIZE - 2 - len(given))
            rows.append([math.log(given.get(number, rest)) for number in range(SIZE)])
        return torch.tensor(rows)

    monkeypatch.setattr(network, "step", step)
    monkeypatch.setattr(network, "start_cache", lambda memory: Prefixes([[] for _ in memory.states]))
    found = beam_search(network, read(network, SENTENCES[:1]), DecodingConfig(num_beams=2, num_best=2))[0]
    assert [one.ids for one in found] == [[A, B], [A]]
    assert [math.exp(one.log_probability) for one in found] == pytest.approx([0.6 * 0.6 * 0.99, 0.6 * 0.3], rel=1e-4)
