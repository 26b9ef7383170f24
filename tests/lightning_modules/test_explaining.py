"""Attention against other implementations, and attributions of networks for which they are known."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor

from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.entities import EntityTagger
from lightrail.lightning_modules.explaining import gradients
from lightrail.lightning_modules.explaining.attention import (
    attention_weights,
    encoder_decoder_attention,
    recorded_attention,
)
from lightrail.lightning_modules.explaining.explanation import (
    Alignment,
    AttentionHeads,
    Attribution,
    Copies,
    Question,
)
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import ArchitectureConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.networks.encoders.convolutional import TextCnnConfig
from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.seq2seq.network import Vocabulary
from lightrail.lightning_modules.networks.seq2seq.pretrained import (
    PretrainedSeq2Seq,
    PretrainedSeq2SeqConfig,
    eager_attention,
)
from lightrail.lightning_modules.networks.tagging.tag_schemes import Span
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import attention_kind
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.showing import shown_tokens
from lightrail.project.configuration import parse
from lightrail.project.running.build import build
from tests.support.pretrained import IDS, IS_TOKEN, written
from tests.support.pretrained_seq2seq import write_seq2seq
from tests.support.tasks import entities, pinyin, translation

WORDS = ["a", "b", "c"]
SMALL: dict[str, Any] = {"width": 8, "depth": 2, "num_heads": 2}


def classifier() -> TextClassifier:
    """A classifier that is linear in the bag of its words: filters that read one word, and change nothing."""
    encoder = TextCnnConfig(width=4, filter_widths=[1], num_filters=4, dropout=0.0)
    task = TextClassifier(WORDS, ["x", "y"], [1, 1], encoder=encoder, pooling="mean").eval()
    weights = dict(task.encoder.named_parameters())
    with torch.no_grad():
        weights["embedding.tokens.weight"].uniform_(0.1, 1.0)  # positive: the ReLU changes nothing
        weights["filters.0.weight"].copy_(torch.eye(4)[..., None])
        weights["filters.0.bias"].zero_()
    return task


def test_of_a_bag_of_words_a_word_gets_its_weight_times_its_count() -> None:
    task, ids = classifier(), torch.tensor([[2, 3, 2, 4, 2]])

    def copies(num: int) -> dict[str, Any]:
        many = ids.expand(num, -1)
        return {"id": [0] * num, "input_ids": many, "attention_mask": torch.ones_like(many, dtype=torch.bool)}

    (found,) = task.explain_batch(copies, [WORDS[own - 2] for own in ids[0].tolist()], Question(label="y"))
    assert isinstance(found, Attribution)
    vectors = dict(task.encoder.named_parameters())["embedding.tokens.weight"].detach()
    weights = (
        (vectors[2:] - vectors[1]) @ task.head.linear.weight[1].detach() / ids.shape[1]
    )  # compared with unknown words
    for word, count in Counter(found.tokens).items():
        total = sum(value for token, value in zip(found.tokens, found.values, strict=True) if token == word)
        assert total == pytest.approx(count * float(weights[WORDS.index(word)]), abs=1e-6)
    assert found.is_reliable
    assert (found.num_steps, found.baseline) == (50, "the unknown token")


def test_attributions_that_miss_the_difference_are_not_reliable() -> None:
    about = {"title": "", "tokens": ["a"], "score": 2.0, "baseline_score": 1.0, "baseline": "", "num_steps": 50}
    assert Attribution(**about, values=[1.04]).is_reliable  # type: ignore[arg-type]
    assert not Attribution(**about, values=[1.06]).is_reliable  # type: ignore[arg-type]
    assert not Attribution(**about, values=[float("nan")]).is_reliable  # type: ignore[arg-type]


@pytest.mark.parametrize("num_key_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["all", "causal", "masked"])
def test_weights_times_values_are_what_attention_gives(num_key_heads: int, kind: str) -> None:
    query, key, value = (torch.randn(2, heads, 5, 8) for heads in (4, num_key_heads, num_key_heads))
    mask = (torch.arange(5) < torch.tensor([[5], [3]]))[:, None, None] if kind == "masked" else None
    given = {"attn_mask": mask, "is_causal": kind == "causal", "enable_gqa": True}
    expected = F.scaled_dot_product_attention(query, key, value, **given)  # type: ignore[arg-type]
    weights = attention_weights(query, key, **given)  # type: ignore[arg-type]
    torch.testing.assert_close(weights @ value.repeat_interleave(4 // num_key_heads, dim=1), expected)


def recorded(network: Encoder) -> tuple[list[Tensor], Tensor]:
    with torch.no_grad(), recorded_attention(network) as layers:
        states = network.eval()(IDS, IS_TOKEN)
    return layers, states


def test_our_transformer_shows_its_heads_and_an_lstm_has_none() -> None:
    network = TransformerConfig(**SMALL).build([*"abcdefgh"])
    layers, states = recorded(network)
    assert [own.shape for own in layers] == [(2, 2, 5, 5)] * 2
    assert all((own.sum(-1) - 1).abs().max() < 1e-6 for own in layers)
    assert layers[0][1, ..., 3:].max() == 0  # padding
    torch.testing.assert_close(states, network(IDS, IS_TOKEN))
    assert recorded(LstmConfig(width=8).build([*"abcdefgh"]))[0] == []


def test_a_pretrained_encoder_shows_what_transformers_returns_and_is_as_before(tmp_path: Path) -> None:
    network = PretrainedConfig(checkpoint=written(tmp_path / "bert", "bert")).build([])
    before = attention_kind(network.model.config)
    layers, _ = recorded(network)
    assert attention_kind(network.model.config) == before != "eager"
    network.model.set_attn_implementation("eager")
    expected = network.model(IDS, attention_mask=IS_TOKEN.long(), output_attentions=True).attentions
    torch.testing.assert_close(layers, list(expected))


DECODERS = [
    TransformerDecoderConfig(**SMALL, num_key_value_heads=1),
    PlainDecoderConfig(**SMALL),
    ArchitectureConfig(model_type="gpt2", settings={"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}),
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda own: type(own).__name__)
def test_a_language_model_explains_the_next_token(decoder: DecoderConfig) -> None:
    torch.manual_seed(0)
    facts = load_language_tokenizer("characters", ["书好书不好"], max_vocabulary=9, min_count=1).facts()
    task = CausalLM(facts, decoder=decoder).eval()
    attribution, heads = task.explain_text("书好", Question(target="不好"))
    assert isinstance(attribution, Attribution)
    assert isinstance(heads, AttentionHeads)
    assert attribution.tokens[1:] == heads.rows[1:] == heads.columns[1:] == ["书", "好", "不"]
    assert attribution.error < 1e-3
    weights = torch.tensor(heads.layers)
    assert weights.shape == (2, 2, 4, 4)
    torch.testing.assert_close(weights, weights.tril())  # no position looks ahead
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
    (without_target, _) = task.explain_text("书好", Question())
    assert without_target.title.startswith("Log probability of the likeliest next token, ")
    with pytest.raises(ConfigError, match="--label is for models with labels"):
        next(task.explain_text("书好", Question(label="x")))


def test_a_translation_is_aligned_with_its_source(tmp_path: Path) -> None:
    task = build(parse(translation.settings(tmp_path)), "fit").model.eval()
    found = [[*task.explain_text("ab c", Question(target=own))] for own in ("CAB", None)]  # type: ignore[operator]
    for alignment, encoder, decoder, across in found:
        assert isinstance(alignment, Alignment)
        assert alignment.columns == encoder.rows == encoder.columns == across.columns == ["a", "b", "␣", "c", "<end>"]
        assert alignment.rows == decoder.rows == across.rows
        assert decoder.columns == ["<start>", *decoder.rows[:-1]]
        for own in (encoder, decoder, across):
            weights = torch.tensor(own.layers)
            assert weights.shape == (1, 2, len(own.rows), len(own.columns))
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        torch.testing.assert_close(torch.tensor(decoder.layers), torch.tensor(decoder.layers).tril())
        # The alignment is the mean over the heads of the last layer.
        torch.testing.assert_close(torch.tensor(across.layers)[-1].mean(0), torch.tensor(alignment.weights))
    assert found[0][0].rows == ["C", "A", "B", "<end>"]


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_a_pretrained_encoder_decoder_shows_what_transformers_returns_and_is_as_before(
    tmp_path: Path, name: str
) -> None:
    folder = write_seq2seq(tmp_path / name, name, ["ab c d"])
    vocabulary = Vocabulary(size=8, start_id=0, end_id=1)
    network = PretrainedSeq2SeqConfig(checkpoint=str(folder)).build(vocabulary, vocabulary, is_shared=True).eval()
    assert isinstance(network, PretrainedSeq2Seq)
    configs = [own.config for own in network.model.modules() if hasattr(own, "set_attn_implementation")]
    before = [*map(attention_kind, configs)]
    source = torch.tensor([[4, 5, 6, 1]]), torch.ones(1, 4, dtype=torch.bool)
    decoder_ids = torch.tensor([[0, 5, 4]])
    _, *maps = encoder_decoder_attention(
        network, source, decoder_ids, ["b", "a", "<end>"], ["a", "b", "c", "<end>"], ""
    )
    with pytest.raises(IndexError), eager_attention(network.model):
        network.model(input_ids=source[0] + 99, decoder_input_ids=decoder_ids)
    assert [*map(attention_kind, configs)] == before
    assert "eager" not in before
    network.model.set_attn_implementation("eager")
    outputs = network.model(input_ids=source[0], decoder_input_ids=decoder_ids, output_attentions=True)
    for own, expected in zip(maps, ("encoder_attentions", "decoder_attentions", "cross_attentions"), strict=True):
        assert isinstance(own, AttentionHeads)
        torch.testing.assert_close(torch.tensor(own.layers), torch.cat(outputs[expected]))


def tagger(folder: Path, *settings: str) -> tuple[EntityTagger, Copies]:
    """Return an untrained tagger that finds many entities, and copies of a sentence in several windows."""
    experiment = build(parse([*entities.write_entities(folder), *entities.TINY, *settings]), "fit")
    row = {**experiment.data.dataset("train").row(3), "id": 0, "draw_seed": (0,)}
    assert isinstance(experiment.model, EntityTagger)
    return experiment.model.eval(), lambda num: experiment.data.collate([row] * num)


def test_attributions_are_those_of_one_score_and_one_step_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "_SCORES_AT_ONCE", 3)
    monkeypatch.setattr(gradients, "_POSITIONS_AT_ONCE", 150)
    task, copies = tagger(tmp_path, "--data.max_length=4")
    batch = copies(1)
    num_windows = len(batch["input_ids"])
    tokens = [str(number) for number in range(int(batch["attention_mask"].sum()))]
    found = [own for own in task.explain_batch(copies, tokens, Question()) if isinstance(own, Attribution)]
    (spans,) = task.head.spans(task(batch), batch["word_mask"])
    assert len(found) == len(spans) > 3
    assert num_windows > 1
    embedding = task.encoder.input_embedding()
    states, baseline = embedding(batch["input_ids"]), embedding(torch.ones_like(batch["input_ids"]))
    for own, span in zip(found, spans, strict=True):

        def score(given: Tensor, span: Span = span) -> Tensor:
            hook = embedding.register_forward_hook(lambda *_: given[0])
            try:
                return task.head.span_score(task(batch), span)
            finally:
                hook.remove()

        method = IntegratedGradients(score)
        parts = method.attribute(states[None], baseline[None], n_steps=own.num_steps, internal_batch_size=1)
        expected = parts[0].sum(-1)[batch["attention_mask"]]
        torch.testing.assert_close(torch.tensor(own.values), expected, rtol=1e-4, atol=1e-6)


def test_entities_share_the_forward_passes_of_their_attributions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, copies = tagger(tmp_path)
    monkeypatch.setattr(gradients, "NUMBERS_OF_STEPS", (50,))
    monkeypatch.setattr(gradients, "_SCORES_AT_ONCE", 3)
    calls: list[int] = []
    task.encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    found = [*task.explain_batch(copies, ["x"] * 9, Question())]
    assert len(found) > 3
    # The prediction, its scores, those of the baseline, and for up to three entities 50 steps; then the attention.
    num_groups = -(-len(found) // 3)
    assert calls == [1, 1, 1, *[50] * num_groups, 1]
    brief = [*task.explain_batch(copies, ["x"] * 9, Question(is_brief=True))]
    assert [(own.title, own.num_steps) for own in brief] == [(own.title, 16) for own in found[:2]]  # type: ignore[union-attr]


def test_tokens_are_shown_as_the_text_has_them() -> None:
    names = {2: "good", 3: "##s", 4: "▁in", 5: "[CLS]"}
    assert shown_tokens([5, 2, 3, 4], names) == ["[CLS]", "good", "s", "in"]
    assert shown_tokens([2, 1, 4], names, "good books in") == ["good", "books", "in"]
    assert shown_tokens([1, 1, 2, 1], names, "书好 Good") == ["书", "好", "good", "?"]
    assert shown_tokens([7, 8, 9], {7: "Ġåĸ", 8: "Ģ", 9: "Ċ"}) == ["‹20 E5 96›", "‹80›", "⏎"]


def explained_pinyin(folder: Path, *settings: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what an untrained task explains of a sentence, and the sentence's batch."""
    torch.manual_seed(0)
    experiment = build(parse([*settings, *pinyin.write_sentences(folder), "--trainer.max_steps=1"]), "fit")
    row = {**experiment.data.dataset("train").row(7), "id": 0}

    def copies(num: int) -> dict[str, Any]:
        return experiment.data.collate([row] * num)

    task: Any = experiment.model.eval()
    return [*task.explain_batch(copies, [], Question())], copies(1)


def test_of_pinyin_each_syllable_with_a_choice_is_explained_by_the_syllables(tmp_path: Path) -> None:
    found, batch = explained_pinyin(tmp_path, *pinyin.TINY)
    (tokens,) = batch["tokens"]
    *attributions, heads = found
    choices = {"shi": "是师世", "ta": "他"}
    places = [place for place, token in enumerate(tokens, 1) if len(choices.get(token, "")) > 1]
    assert [own.title.rpartition(", position ")[2] for own in attributions] == [str(place) for place in places]
    for own in attributions:
        assert own.title[len("Log probability of ")] in choices["shi"]
        assert own.tokens == tokens
        assert own.is_reliable
    assert heads.rows == tokens


def test_pinyin_is_aligned_with_its_characters(tmp_path: Path) -> None:
    (alignment, *heads), batch = explained_pinyin(tmp_path, *pinyin.TRANSLATOR)
    assert alignment.columns == batch["tokens"][0]
    assert len(alignment.rows) == len(alignment.columns)
    assert alignment.note.startswith(f"Sentence: {''.join(alignment.rows)}, with a probability of 0.")
    torch.testing.assert_close(torch.tensor(alignment.weights).sum(1), torch.ones(len(alignment.rows)))
    assert heads == []
    found, _ = explained_pinyin(tmp_path, "--model=PinyinTranslator", *translation.TRANSFORMER)
    assert [own.kind for own in found] == ["alignment", "heads", "heads", "heads"]
