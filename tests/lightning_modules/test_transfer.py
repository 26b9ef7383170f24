"""Weights that a task takes from another one mean the same there: rows of tokens and labels are matched by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.entities import EntityTagger
from lightrail.lightning_modules.image_classification import ImageClassifier
from lightrail.lightning_modules.networks.adapters import LoraConfig
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.plain_decoder import PlainDecoderConfig
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import ArchitectureConfig
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.networks.encoders.characters import CharacterCnnConfig
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.networks.images import ConvNetConfig
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.networks.seq2seq.network import Seq2SeqConfig
from lightrail.lightning_modules.networks.seq2seq.recurrent import RecurrentSeq2SeqConfig
from lightrail.lightning_modules.networks.seq2seq.transformer import TransformerSeq2SeqConfig
from lightrail.lightning_modules.networks.tagging.entity_head import EntityHeadConfig
from lightrail.lightning_modules.networks.tagging.span_head import SpanConfig
from lightrail.lightning_modules.networks.tagging.tag_head import CrfConfig, SoftmaxConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.lightning_modules.pinyin.tagger import PinyinTagger
from lightrail.lightning_modules.pinyin.translator import PinyinTranslator
from lightrail.lightning_modules.text_classification import TextClassifier
from lightrail.lightning_modules.transfer.matching import NamedWeights, Transfer, take_weights
from lightrail.lightning_modules.transfer.source import StoredWeights, read_weights, start_from
from lightrail.lightning_modules.translation import Translation
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from tests.support.pretrained import IDS, IS_TOKEN, write_tiny_bert

VOCABULARY, SHUFFLED = ["ma", "wo", "shi", "ni"], ["ni", "hao", "wo", "ma", "shi"]
LABELS, PERMUTED = ["good", "bad", "fine"], ["bad", "fine", "good"]
SMALL = TransformerConfig(width=8, depth=1, num_heads=2)


def took(one: TaskModule, other: TaskModule) -> Transfer:
    """Start one task from another, both ready to be evaluated."""
    for parameter in other.parameters():  # also those that begin as zeros
        nn.init.normal_(parameter.data, std=0.5)
    found = take_weights(one, NamedWeights.of(other))
    one.eval(), other.eval()
    return found


def ids(tokens: Sequence[str], vocabulary: Sequence[str], first: int = FIRST_TOKEN) -> Tensor:
    return torch.tensor([[vocabulary.index(token) + first for token in tokens]])


def text(words: Sequence[str], vocabulary: Sequence[str], **more: Any) -> Batch:
    input_ids = ids(words, vocabulary)
    return {"id": [0], "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids, dtype=torch.bool), **more}


def classifier(vocabulary: list[str], labels: list[str], **encoder: Any) -> TextClassifier:
    return TextClassifier(vocabulary, labels, [1] * len(labels), encoder=replace(SMALL, **encoder))


def test_tokens_and_labels_in_another_order_give_the_same_outputs() -> None:
    before, now = classifier(VOCABULARY, LABELS), classifier(SHUFFLED, PERMUTED)
    found = took(now, before)
    for tokens in (["ma", "ni"], ["shi", "shi", "wo"]):
        old, new = before(text(tokens, VOCABULARY)), now(text(tokens, SHUFFLED))
        torch.testing.assert_close(new, old[:, [LABELS.index(label) for label in PERMUTED]])
    assert found.in_part == {"encoder.embedding.tokens.weight": "6 of 7 rows"}
    assert (found.new, found.left) == ([], [])


def test_a_new_token_and_a_new_label_keep_their_fresh_values() -> None:
    now = classifier(SHUFFLED, ["fine", "odd", "bad", "new"])
    embedding, output = now.encoder.get_parameter("embedding.tokens.weight"), now.head.linear.weight
    token, labels = embedding[ids(["hao"], SHUFFLED)[0]].clone(), output[[1, 3]].clone()
    found = took(now, classifier(VOCABULARY, LABELS))
    assert torch.equal(embedding[ids(["hao"], SHUFFLED)[0]], token)
    assert torch.equal(output[[1, 3]], labels)
    assert found.in_part["head.linear.weight"] == "2 of 4 rows"
    whole = sum(parameter.numel() for parameter in now.parameters())
    assert (found.num_weights, sum(found.taken.values())) == (whole, whole - token.numel() - labels.numel() - 2)


def test_labels_of_equal_number_and_other_names_are_not_taken() -> None:
    found = took(classifier(VOCABULARY, ["a", "b", "c"]), classifier(VOCABULARY, LABELS))
    assert found.new == found.left == ["head.linear.weight", "head.linear.bias"]
    assert str(found).endswith(
        "; new: head.linear.weight, head.linear.bias; left: head.linear.weight, head.linear.bias"
    )


def test_hashed_ngrams_are_taken_with_their_vocabulary_alone() -> None:
    ngrams = {"ngram_orders": [2], "ngram_buckets": 8, "ngram_width": 4}
    tables = [f"encoder.embedding.ngrams.tables.{number}.weight" for number in range(2)]
    assert took(classifier(VOCABULARY, LABELS, **ngrams), classifier(VOCABULARY, LABELS, **ngrams)).new == []
    assert took(classifier(VOCABULARY[::-1], LABELS, **ngrams), classifier(VOCABULARY, LABELS, **ngrams)).new == tables


def test_characters_of_words_are_matched() -> None:
    encoder = replace(SMALL, characters=CharacterCnnConfig(size=4))
    before, now = (
        TextClassifier(VOCABULARY, LABELS, [1, 1, 1], alphabet=own, encoder=encoder) for own in (["a", "b"], ["b", "a"])
    )
    took(now, before)
    rows = [own.encoder.get_parameter("embedding.characters.embedding.weight") for own in (before, now)]
    assert torch.equal(rows[1][FIRST_TOKEN:], rows[0][FIRST_TOKEN:].flip(0))


@pytest.mark.parametrize("head", [CrfConfig(), CrfConfig(scheme="bio"), SoftmaxConfig(), SpanConfig(max_words=3)])
def test_types_of_entities_in_another_order_are_the_same_entities(head: EntityHeadConfig) -> None:
    types, permuted = ["PER", "LOC"], ["LOC", "ORG", "PER"]
    before, now = (
        EntityTagger(VOCABULARY, own, False, encoder=LstmConfig(width=8), head=head) for own in (types, permuted)
    )
    if (scheme := getattr(now.head, "scheme", None)) is not None:  # no new type
        with torch.no_grad():
            now.head.get_parameter("output.bias")[[scheme.tag(letter, 1) for letter in scheme.letters]] = -1e9
    found = took(now, before)
    with torch.no_grad():
        if scheme is None:
            now.head.get_parameter("widths")[:, 1] = -1e9
    batch = text(["ma", "wo", "shi"], VOCABULARY, word_mask=torch.ones(1, 3, dtype=torch.bool))
    (old,), (new,) = (own.head.found(own(batch), batch["word_mask"]) for own in (before, now))
    assert [(first, end, types[kind]) for first, end, kind in old.spans] == [
        (first, end, permuted[kind]) for first, end, kind in new.spans
    ]
    assert new.probability == pytest.approx(old.probability, rel=1e-4)
    assert found.new == []


def test_a_classifier_becomes_a_tagger_that_reads_texts_alike() -> None:
    classifier_of = TextClassifier(VOCABULARY, LABELS, [1, 1, 1], encoder=SMALL)
    tagger = EntityTagger(SHUFFLED, ["PER"], False, encoder=SMALL)
    found = took(tagger, classifier_of)
    assert {name.partition(".")[0] for name in found.taken} == {"encoder"}
    assert {name.partition(".")[0] for name in found.new} == {"head"} == {name.partition(".")[0] for name in found.left}
    mask = torch.ones(1, 2, dtype=torch.bool)
    old, new = (
        classifier_of.encoder(ids(["ni", "ma"], VOCABULARY), mask),
        tagger.encoder(ids(["ni", "ma"], SHUFFLED), mask),
    )
    torch.testing.assert_close(new, old)


DECODERS = [
    TransformerDecoderConfig(width=8, depth=1, num_heads=2),
    TransformerDecoderConfig(width=8, depth=1, num_heads=2, is_tied=False),
    PlainDecoderConfig(width=8, depth=1, num_heads=2, max_length=8),
    ArchitectureConfig(model_type="gpt2", settings={"n_embd": 8, "n_layer": 1, "n_head": 2}),
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_a_language_model_with_another_tokenizer_scores_shared_tokens_alike(decoder: DecoderConfig, kind: str) -> None:
    texts = [["abab ab c", "aab"], ["ccc bb a", "aab ab ccb"]]
    one, other = (load_language_tokenizer(kind, own, max_vocabulary=260) for own in texts)
    before, now = (CausalLM(own.facts(), decoder=decoder) for own in (one, other))
    assert took(now, before).new == []
    shared = sorted(set(one.token_ids()) & set(other.token_ids()))
    assert [one.token_ids()[token] for token in shared] != [other.token_ids()[token] for token in shared]
    scores = []
    for model, tokenizer in ((before, one), (now, other)):
        numbers = [tokenizer.token_ids()[token] for token in shared]
        scores.append(model.decoder(torch.tensor([numbers[-6:]]))[..., numbers])
    torch.testing.assert_close(scores[1], scores[0])


def test_positions_are_taken_as_far_as_both_have_them() -> None:
    facts = load_language_tokenizer("characters", ["ab"]).facts()
    before, now = (
        CausalLM(facts, decoder=PlainDecoderConfig(width=8, depth=1, num_heads=2, max_length=own)) for own in (8, 12)
    )
    assert took(now, before).in_part == {"decoder.positions.weight": "8 of 12 rows"}


NETWORKS = [
    TransformerSeq2SeqConfig(width=8, encoder_depth=1, decoder_depth=1, num_heads=2),
    RecurrentSeq2SeqConfig(width=8, is_tied=False),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_translation_with_other_tokenizers_scores_shared_tokens_alike(
    network: Seq2SeqConfig, is_shared: bool
) -> None:
    sides = [(["aab", "b"], ["xyy", "z"]), (["bbbac"], ["zzzyxw"])]
    models, tokenizers = [], []
    for source_texts, target_texts in sides:
        source, target = (load_language_tokenizer("characters", own) for own in (source_texts, target_texts))
        target = source if is_shared else target
        facts = [{"tokenizer": own.facts(), "frame": [[], []], "prefix": ""} for own in (source, target)]
        models.append(Translation(*facts, network=network))
        tokenizers.append((source, target))
    assert took(models[1], models[0]).new == []
    scores = []
    for model, (source, target) in zip(models, tokenizers, strict=True):
        numbers = torch.from_numpy(target.encode("ab" if is_shared else "xyz").astype("int64"))
        read = torch.from_numpy(source.encode("abba").astype("int64"))[None]
        scores.append(model.network(read, torch.ones_like(read, dtype=torch.bool), numbers[None])[..., numbers])
    torch.testing.assert_close(scores[1], scores[0])


def test_hashed_ngrams_of_a_source_mean_the_same_with_the_same_tokens_only() -> None:
    network = RecurrentSeq2SeqConfig(width=8, ngram_orders=[2], ngram_buckets=16, ngram_width=4)
    models = []
    for texts in (["ab"], ["ab"], ["abc"]):
        facts = {"tokenizer": load_language_tokenizer("characters", texts).facts(), "frame": [[], []], "prefix": ""}
        models.append(Translation(facts, facts, network=network))
    tables = {"network.ngrams.tables.0.weight", "network.ngrams.tables.1.weight"}
    assert tables.isdisjoint(took(models[1], models[0]).new)
    assert tables <= set(took(models[2], models[0]).new)


CANDIDATES = {"ma": {"吗": 3, "妈": 2}, "wo": {"我": 4}, "shi": {"是": 3, "时": 1}, "ni": {"你": 2}}
OTHER_CANDIDATES = {
    "ni": {"你": 1},
    "hao": {"好": 2},
    "wo": {"窝": 1, "我": 1},
    "ma": {"妈": 5, "吗": 1},
    "shi": {"是": 1},
}


@pytest.mark.parametrize(
    "build",
    [
        lambda *facts: PinyinTagger(*facts, encoder=SMALL),
        lambda *facts: PinyinTranslator(*facts, network=NETWORKS[1]),
    ],
    ids=["tagger", "translator"],
)
def test_syllables_and_characters_are_matched(build: Callable[..., PinyinTagger | PinyinTranslator]) -> None:
    before, now = build(VOCABULARY, CANDIDATES), build(SHUFFLED, OTHER_CANDIDATES)
    assert took(now, before).new == []
    sentence, scores = ["ma", "ni"], []
    for model, vocabulary, candidates in ((before, VOCABULARY, CANDIDATES), (now, SHUFFLED, OTHER_CANDIDATES)):
        labels = torch.tensor([[list(candidates[own]).index(char) for own, char in (("ma", "妈"), ("ni", "你"))]])
        batch = text(sentence, vocabulary, tokens=[sentence], text=["妈你"], labels=labels, num_targets=2)
        scores.append(model.loss(model(batch), batch)[0])
    torch.testing.assert_close(scores[1], scores[0])


def test_statistics_of_norms_are_taken_and_calibrations_are_not() -> None:
    facts: tuple[Any, ...] = (LABELS, [1, 1, 1], [1, 8, 8], [0.5], [0.2])
    before, now = (ImageClassifier(*facts, encoder=ConvNetConfig(channels=[4], width=4)) for _ in range(2))
    for own in (before, now):
        own.encoder.norm = nn.BatchNorm2d(4)
    for name in ("encoder.norm.running_mean", "head.temperature"):
        before.get_buffer(name).fill_(3.0)
    found = took(now, before)
    assert bool((now.get_buffer("encoder.norm.running_mean") == 3).all())
    assert now.head.temperature == 1
    assert "head.temperature" not in {*found.new, *found.left}


class _Network(nn.Module):
    """Of somebody who has not heard of rows with names."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.table, self.reader = nn.Embedding(num_tokens, 4), nn.LSTM(4, 4)


@final
class _Silent(TaskModule):
    monitor = "val/loss"

    def __init__(self, words: FromData[list[str]], optim: OptimConfig = OptimConfig()) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.network, self.head = _Network(len(words)), nn.Linear(4, len(words))

    def forward(self, batch: Batch) -> Any:
        raise NotImplementedError


@final
class _Telling(TaskModule):
    monitor = "val/loss"

    def __init__(self, words: FromData[list[str]], optim: OptimConfig = OptimConfig()) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.words, self.network, self.middle = words, _Network(len(words)), nn.Linear(4, 4)

    def row_names(self) -> Mapping[str, RowNames]:
        return {"network.table.weight": (self.words,)}

    def forward(self, batch: Batch) -> Any:
        raise NotImplementedError


def test_own_modules_that_name_no_rows_are_taken_for_the_same_data_alone() -> None:
    assert took(_Silent(["a", "b"]), _Silent(["a", "b"])).new == []
    found = took(_Silent(["a", "b"]), _Silent(["b", "a"]))
    assert found.new == ["network.table.weight", "head.weight", "head.bias"]
    assert len(found.taken) == 4  # of the LSTM


def test_own_modules_that_name_rows_are_taken_by_name() -> None:
    before, now = _Telling(["a", "b"]), _Telling(["b", "a"])
    assert took(now, before).new == []
    assert torch.equal(now.network.table.weight, before.network.table.weight.flip(0))


def test_names_of_another_number_of_rows_are_refused() -> None:
    now = _Telling(["a", "b"])
    now.words = ["a"]
    with pytest.raises(
        ConfigError, match=r"row_names of _Telling names \[1\] rows of network.table.weight, .* \[2, 4\]"
    ):
        took(now, _Telling(["a", "b"]))


def bert(folder: Path, lora: LoraConfig | None = None) -> TextClassifier:
    checkpoint = write_tiny_bert(folder / "bert", ["good bad"])
    return TextClassifier([], LABELS, [1, 1, 1], encoder=PretrainedConfig(checkpoint=str(checkpoint), lora=lora))


@pytest.mark.parametrize(
    ("before", "now"), [(4, 4), (4, 2), (4, None), (None, 4)], ids=["same", "other rank", "without", "added"]
)
def test_adapters_are_taken_or_added_to_the_weights(tmp_path: Path, before: int | None, now: int | None) -> None:
    pytest.importorskip("peft", reason="needs lightrail[lora]")
    one, other = (bert(tmp_path, None if rank is None else LoraConfig(rank=rank)) for rank in (before, now))
    for name, parameter in one.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter.data, std=0.5)
    batch = {"id": [0, 1], "input_ids": IDS % 5, "attention_mask": IS_TOKEN}
    with torch.no_grad():
        expected = one.eval()(batch)
        found = start_from(other, StoredWeights("one", "", "", one, {}))
        torch.testing.assert_close(other.eval()(batch), expected)
    assert all("lora_" in name for name in found.new)
    assert bool(found.new) == (now is not None and now != before)


def test_a_file_of_weights_alone_gives_no_rows_of_tokens_or_labels(tmp_path: Path) -> None:
    before, now = classifier(VOCABULARY, LABELS), classifier(VOCABULARY, LABELS)
    save_file(dict(before.state_dict()), tmp_path / "weights.safetensors")
    found = start_from(now, read_weights(tmp_path / "weights.safetensors"))
    assert found.new == ["encoder.embedding.tokens.weight", "head.linear.weight", "head.linear.bias"]
    assert torch.equal(
        now.encoder.get_parameter("blocks.0.attention_out.weight"),
        before.encoder.get_parameter("blocks.0.attention_out.weight"),
    )


def test_nothing_that_fits_is_refused(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"nothing of .*other.safetensors fits this model: .* the file has other"):
        start_from(classifier(VOCABULARY, LABELS), read_weights(tmp_path / "other.safetensors"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "best.ckpt"):
        (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
        with pytest.raises(ConfigError, match=name):
            read_weights(tmp_path / name)
