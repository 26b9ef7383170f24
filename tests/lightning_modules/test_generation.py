"""Samples follow the distribution that the settings leave, and nothing outside is touched."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightrail.lightning_modules.networks.decoders.decoder import Decoder, DecoderConfig
from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig, generate
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import ArchitectureConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.project.basics.errors import ConfigError

SHARES = [0.5, 0.25, 0.15, 0.1]


@dataclass(frozen=True, kw_only=True)
class ToyConfig(DecoderConfig):
    max_length: int | None = None

    def build(self, num_tokens: int) -> "Toy":
        return Toy(self, num_tokens)


class Toy(Decoder):
    """Scores depend on all tokens so far and on their places, as those of a network with numbered positions do.

    `seen` says which tokens each call had, counted with the cache.
    """

    def __init__(self, config: ToyConfig, num_tokens: int, shares: list[float] | None = None) -> None:
        super().__init__()
        self.config, self.num_tokens, self.max_length = config, num_tokens, config.max_length
        self.table = nn.Parameter(torch.randn(64, num_tokens, generator=torch.Generator().manual_seed(1)))
        self.dropout = nn.Dropout(0.5)
        self.shares = shares
        self.seen: list[list[int]] = []

    def start_cache(self) -> list[Tensor]:
        return []

    def forward(
        self, input_ids: Tensor, document_ids: Tensor | None = None, *, keep: Tensor | None = None, cache: Any = None
    ) -> Tensor:
        past = [] if cache is None else cache
        past.append(input_ids)
        everything = torch.cat(past, dim=1)
        assert self.max_length is None or everything.shape[1] <= self.max_length
        self.seen.append(everything[0].tolist())
        places = torch.arange(1, everything.shape[1] + 1)
        keys = (everything * places + 7 * everything).cumsum(1)[:, -input_ids.shape[1] :] % 64
        logits: Tensor = self.dropout(self.table[keys])
        if self.shares is not None:
            logits = torch.tensor(self.shares).log().expand_as(logits)
        return logits if keep is None else logits[keep]

    def to_transformers(self) -> Any:
        raise NotImplementedError


def toy(max_length: int | None = None, shares: list[float] | None = None) -> Toy:
    num_tokens = 8 if shares is None else len(shares)
    return Toy(ToyConfig(max_length=max_length), num_tokens, shares)


def samples(
    decoder: Decoder,
    config: GenerationConfig,
    number: int = 1,
    end_id: int | None = None,
    prompt: tuple[int, ...] = (1, 2),
) -> list[list[int | None]]:
    """The tokens of each sample."""
    steps = generate(decoder, prompt, config, num_samples=number, end_id=end_id)
    return [list(own) for own in zip(*steps, strict=True)]


def uncached(decoder: Decoder, prompt: tuple[int, ...], number: int) -> list[int]:
    """The likeliest tokens, everything read again for each."""
    text = list(prompt)
    for _ in range(number):
        text.append(int(decoder(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_greedy_tokens_are_those_of_decoding_without_a_cache() -> None:
    decoder = toy().eval()
    assert samples(decoder, GenerationConfig(max_tokens=30, temperature=0)) == [uncached(decoder, (1, 2), 30)]


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
        (
            "llama",
            {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
        ),
    ],
)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_tokens_are_those_of_transformers(model_type: str, settings: dict[str, Any], penalty: float) -> None:
    torch.manual_seed(0)
    decoder = ArchitectureConfig(model_type=model_type, settings=settings).build(40)
    with torch.no_grad():  # or the likeliest token would be the last one, always
        for parameter in decoder.parameters():
            parameter.mul_(1 + 4 * torch.rand_like(parameter))
    theirs = decoder.to_transformers().generate(
        torch.tensor([[1, 2, 3]]),
        attention_mask=torch.ones(1, 3, dtype=torch.int64),
        do_sample=False,
        max_new_tokens=25,
        repetition_penalty=penalty,
        pad_token_id=0,
    )
    config = GenerationConfig(max_tokens=25, temperature=0, repetition_penalty=penalty)
    (own,) = samples(decoder, config, prompt=(1, 2, 3))
    assert own == theirs[0, 3:].tolist()
    assert len(set(own)) > 3


@pytest.mark.parametrize(
    "config",
    [
        TransformerDecoderConfig(width=16, depth=2, num_heads=2, num_key_value_heads=1),
        PlainDecoderConfig(width=16, depth=2, num_heads=2, max_length=64),
    ],
    ids=["ours", "plain"],
)
def test_our_decoders_choose_with_a_cache_what_they_choose_without(config: DecoderConfig) -> None:
    torch.manual_seed(0)
    decoder = config.build(30).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(6)
    own = samples(decoder, GenerationConfig(max_tokens=20, temperature=0), number=2)
    expected = uncached(decoder, (1, 2), 20)
    assert own == [expected, expected]
    assert len(set(expected)) > 3


def test_tokens_that_the_tokenizer_does_not_number_are_not_chosen() -> None:
    decoder = toy(shares=SHARES)
    decoder.num_tokens = 2
    assert {token for own in samples(decoder, GenerationConfig(max_tokens=50), number=4) for token in own} == {0, 1}


def test_each_token_is_read_once() -> None:
    decoder = toy()
    fed: list[int] = []
    decoder.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].shape[1]))
    samples(decoder, GenerationConfig(max_tokens=5, temperature=0), prompt=(1, 2, 3))
    assert fed == [3, 1, 1, 1, 1]


def test_the_older_half_is_forgotten_where_the_decoder_has_no_more_room() -> None:
    decoder = toy(max_length=4)
    (tokens,) = samples(decoder, GenerationConfig(max_tokens=7, temperature=0), prompt=(1, 2, 3))
    text = [1, 2, 3, *(token for token in tokens if token is not None)]
    assert decoder.seen == [text[:3], text[:4], text[3:5], text[3:6], text[3:7], text[6:8], text[6:9]]


def test_of_a_prompt_too_long_the_end_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    decoder = toy(max_length=4)
    samples(decoder, GenerationConfig(max_tokens=1), prompt=(1, 2, 3, 4, 5, 6))
    assert decoder.seen == [[3, 4, 5, 6]]
    assert "the prompt has 6 tokens, and the model sees no more than its last 4" in caplog.text


@pytest.mark.parametrize("max_length", [1, 2, 3])
def test_even_the_shortest_decoder_goes_on(max_length: int) -> None:
    assert len(samples(toy(max_length=max_length), GenerationConfig(max_tokens=9))[0]) == 9


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, SHARES),
        ({"temperature": 0.5}, [share**2 for share in SHARES]),
        ({"temperature": 2.0}, [share**0.5 for share in SHARES]),
        ({"top_k": 2}, [*SHARES[:2], 0, 0]),
        ({"top_k": 50}, SHARES),
        ({"top_p": 0.7}, [*SHARES[:2], 0, 0]),
        ({"top_p": 0.8}, [*SHARES[:3], 0]),
        ({"top_p": 0.1}, [1, 0, 0, 0]),
        ({"temperature": 2.0, "top_k": 3}, [*(share**0.5 for share in SHARES[:3]), 0]),
    ],
)
def test_tokens_are_as_frequent_as_the_settings_say(settings: dict[str, Any], expected: list[float]) -> None:
    config = GenerationConfig(max_tokens=100, seed=3, **settings)
    drawn = samples(toy(shares=SHARES), config, number=40)
    counts, number = Counter(itertools.chain(*drawn)), 4000
    for token, share in enumerate(expected):
        probability = share / sum(expected)
        deviation = math.sqrt(probability * (1 - probability) / number)
        assert counts[token] / number == pytest.approx(probability, abs=4 * deviation)


def test_a_penalty_keeps_greedy_text_from_repeating() -> None:
    (plain,) = samples(toy(shares=SHARES), GenerationConfig(max_tokens=3, temperature=0), prompt=(3,))
    assert plain == [0, 0, 0]
    # Scores are below 0, so that a penalty of 2 squares the share of a token that the prompt or the text has.
    config = GenerationConfig(max_tokens=3, temperature=0, repetition_penalty=2.5)
    assert samples(toy(shares=SHARES), config, prompt=(3,)) == [[0, 1, 0]]
    assert samples(toy(shares=SHARES), config, prompt=(0,)) == [[1, 0, 0]]


def test_a_sample_depends_on_the_seed_and_its_number_alone() -> None:
    three = samples(toy(), GenerationConfig(max_tokens=20, seed=5), number=3)
    assert samples(toy(), GenerationConfig(max_tokens=20, seed=5), number=2) == three[:2]
    assert len({tuple(own) for own in three}) == 3
    others = samples(toy(), GenerationConfig(max_tokens=20, seed=6), number=3)
    assert not {tuple(own) for own in three} & {tuple(own) for own in others}


def test_a_sample_ends_alone() -> None:
    config = GenerationConfig(max_tokens=30, seed=1)
    endless, ended = (samples(toy(shares=SHARES), config, number=4, end_id=end) for end in (None, 3))
    for whole, own in zip(endless, ended, strict=True):
        length = whole.index(3) if 3 in whole else len(whole)
        assert own == whole[:length] + [None] * (len(own) - length)
    assert max(len([token for token in own if token is not None]) for own in ended) == len(ended[0])


def test_neither_random_state_nor_training_mode_is_touched() -> None:
    decoder = toy().train()
    decoder.dropout.eval()  # a frozen part keeps its own mode
    torch.manual_seed(0)
    before = torch.get_rng_state()
    steps = generate(decoder, [1], GenerationConfig(max_tokens=10), num_samples=2, end_id=None)
    next(steps)
    assert not decoder.training
    assert torch.is_grad_enabled()
    steps.close()
    assert decoder.training
    assert not decoder.dropout.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=rf"^GenerationConfig\.{name}: expected a (whole )?number .*, found "):
        GenerationConfig(**settings)
    with pytest.raises(ConfigError, match="number of samples is 0"):
        samples(toy(), GenerationConfig(), number=0)


def test_scores_that_are_not_finite_are_refused() -> None:
    decoder = Toy(ToyConfig(), 4, [float("nan")] * 4)
    with pytest.raises(ConfigError, match="scores are not finite: its weights are damaged"):
        list(generate(decoder, [1], GenerationConfig(max_tokens=3), num_samples=1, end_id=None))
