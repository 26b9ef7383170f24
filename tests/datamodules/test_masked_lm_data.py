"""Masks: which tokens, how many, the same for any batches; whole words; pieces of long texts; pairs of sentences."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightrail.datamodules.batches.batching import Batch, BatchConfig, row_for_batch
from lightrail.datamodules.batches.masking import MaskingConfig, MaskTokens
from lightrail.datamodules.masked_lm import MaskedLMData
from lightrail.datamodules.settings import SplitConfig
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.words import WordFinder
from tests.support.tasks.masked_lm import write_bert

TEXTS = [f"{chr(97 + number % 26)}{chr(98 + number % 7)} is number {number}" for number in range(40)]
WORDS = ["to", "##day", "we", "play", "##ing", "ball", "."]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))


def made(folder: Path, texts: Sequence[str], seed: int = 0, **settings: Any) -> MaskedLMData:
    """The data of texts, a line each, all of them in each split."""
    file = folder / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    own = {"min_count": 1, "split": SplitConfig(drop_repeats=False), **settings}
    data = MaskedLMData(str(file), validation_path=str(file), test_path=str(file), **own)
    data.order_seed = seed
    data.setup("fit")
    return data


def rows_of(batches: Iterator[Batch]) -> dict[int, tuple[Any, ...]]:
    """What the network reads and is to say of each example, by its id, without padding."""
    found: dict[Any, Any] = {}
    for batch in batches:
        for place, number in enumerate(batch["id"]):
            own = batch["attention_mask"][place]
            values = [batch[name][place][own].tolist() for name in ("input_ids", "labels", "is_target")]
            found[number] = (*values, batch["is_next"][place].item() if "is_next" in batch else None)
    return found


def epoch(data: MaskedLMData, number: int = 0) -> dict[int, tuple[Any, ...]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return rows_of(iter(loader))


def one(data: MaskedLMData, number: int = 0, seed: int = 0) -> Batch:
    return data.collate([row_for_batch(data.dataset("train"), number, [seed])])


def test_masks_follow_from_seed_epoch_and_example_alone(tmp_path: Path) -> None:
    first = epoch(made(tmp_path, TEXTS))
    assert len(first) == 40
    for batch in (BatchConfig(size=3), BatchConfig(size=40), BatchConfig(size=7, num_workers=2)):
        assert epoch(made(tmp_path, TEXTS, batch=batch)) == first
    assert epoch(made(tmp_path, TEXTS), 1) != first
    assert epoch(made(tmp_path, TEXTS, seed=1)) != first


def test_masks_of_an_evaluation_are_equal_in_every_epoch_and_for_every_seed(tmp_path: Path) -> None:
    found = []
    for seed, size in ((0, 32), (7, 5)):
        data = made(tmp_path, TEXTS, seed=seed, batch=BatchConfig(size=size))
        for loader in (data.val_dataloader(), data.test_dataloader()):
            for number in (0, 3):
                loader.sampler.set_epoch(number)
                found.append(rows_of(iter(loader)))
    assert all(own == found[0] for own in found)


def masked(
    num_tokens: int, config: MaskingConfig, words: np.ndarray[Any, Any] | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ids of an example, what is read, and where it is masked; ids of tokens are 5 to 104, of which 9 is special."""
    ids = np.random.default_rng(1).integers(5, 105, num_tokens).astype(np.uint8)
    tokens = MaskTokens(300, np.array([0, 1, 2, 3, 9, 300]), np.setdiff1d(np.arange(5, 300), [9]))
    read, is_masked = tokens.mask(ids, words, config, np.random.default_rng(2))
    return ids.astype(np.int64), read, is_masked


def test_of_all_masked_places_80_10_and_10_in_a_hundred_are_hidden_random_and_kept() -> None:
    ids, read, is_masked = masked(200_000, MaskingConfig())
    assert is_masked.sum() / (ids != 9).sum() == pytest.approx(0.15, abs=1e-4)
    assert (read == ids)[~is_masked].all()
    hidden = read[is_masked] == 300
    kept = read[is_masked] == ids[is_masked]
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / 295, abs=0.006)
    assert (~hidden & ~kept).mean() == pytest.approx(0.1, abs=0.006)


def test_special_tokens_are_neither_masked_nor_drawn() -> None:
    ids, read, is_masked = masked(50_000, MaskingConfig(share=0.9, hidden_share=0.0, random_share=1.0))
    assert not is_masked[ids == 9].any()
    drawn = read[is_masked]
    assert len(set(drawn.tolist())) == 294
    assert not np.isin(drawn, [0, 1, 2, 3, 9, 300]).any()


def test_the_share_holds_on_average_and_a_short_example_has_one_mask() -> None:
    tokens = MaskTokens(4, np.arange(5), np.arange(5, 9))
    counts = [
        [
            int(tokens.mask(np.full(size, 5), None, MaskingConfig(), np.random.default_rng(seed))[1].sum())
            for seed in range(2000)
        ]
        for size in (1, 3, 11)
    ]
    assert set(counts[0]) == set(counts[1]) == {1}
    assert set(counts[2]) == {1, 2}
    assert np.mean(counts[2]) == pytest.approx(0.15 * 11, abs=0.03)
    assert not tokens.mask(np.array([1, 1]), None, MaskingConfig(), np.random.default_rng(0))[1].any()


def test_whole_words_are_masked_or_not_at_all() -> None:
    words = np.repeat(np.arange(40_000), np.random.default_rng(3).integers(1, 5, 40_000))
    _, _, is_masked = masked(len(words), MaskingConfig(whole_words=True), words)
    ids = masked(len(words), MaskingConfig())[0]
    ordinary = ids != 9
    share_of_word = np.bincount(words[ordinary], is_masked[ordinary]) / np.maximum(1, np.bincount(words[ordinary]))
    assert set(share_of_word) == {0.0, 1.0}
    assert is_masked.mean() == pytest.approx(0.15, abs=0.01)


def test_words_of_chinese_are_those_of_the_segmenter(tmp_path: Path) -> None:
    finder = WordFinder(tmp_path)
    assert finder.words("我来到 北京，it's v2").tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6, 7, 7, 7]
    assert finder.words_of_tokens("北京大学人", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]).tolist() == [0, 0, 0, 0, 1]
    # A token with the space before it belongs to its own word; one that spans two words joins them.
    assert finder.words_of_tokens("we play", [(0, 2), (2, 5), (5, 7)]).tolist() == [0, 1, 1]
    assert finder.words_of_tokens("a.b", [(0, 2), (2, 3)]).tolist() == [0, 1]
    assert finder.words_of_tokens("ab.c", [(0, 1), (1, 3), (3, 4)]).tolist() == [0, 0, 1]
    assert finder.words_of_tokens("", []).tolist() == []


@pytest.mark.parametrize("tokenizer", ["characters", "words", "subwords", "bert"])
def test_tokens_of_a_word_are_masked_together_with_every_tokenizer(tmp_path: Path, tokenizer: str) -> None:
    text = "today we playing ball 北京大学 today we playing ball ."
    name = str(write_bert(tmp_path / "bert", [*WORDS, *"北京大学"])) if tokenizer == "bert" else tokenizer
    masking = MaskingConfig(share=0.3, whole_words=True, random_share=0.0, hidden_share=1.0)
    data = made(tmp_path, [text, "we today"], tokenizer=name, masking=masking, max_vocabulary=40)
    row = data.rows("train").row(0)
    words = np.asarray(row["words"])
    assert len(words) == len(np.asarray(row["input_ids"]))
    assert words.max() == 9
    for seed in range(20):
        batch = one(data, 0, seed)
        is_target = batch["is_target"][0].numpy()
        own = is_target[1:-1] if tokenizer == "bert" else is_target
        assert all(len(set(own[words == word].tolist())) == 1 for word in range(10))
        assert batch["attention_mask"].all()  # masked words are still there to be attended to
        assert own.any()


def test_unmasked_places_are_no_targets(tmp_path: Path) -> None:
    batch = next(iter(made(tmp_path, TEXTS).train_dataloader()))
    is_target: Tensor = batch["is_target"]
    assert torch.equal(batch["labels"] != -100, is_target)
    assert batch["num_targets"] == int(is_target.sum()) > 0
    assert not (is_target & ~batch["attention_mask"]).any()
    is_hidden = batch["input_ids"] == 2
    assert (is_target | ~is_hidden).all()


def test_special_tokens_of_a_pretrained_tokenizer_are_not_masked(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert", WORDS)
    masking = MaskingConfig(share=0.99)
    data = made(tmp_path, ["we play unknown ball", "today"], tokenizer=str(folder), masking=masking, max_length=8)
    batch = one(data, 0)
    assert batch["labels"][0].tolist()[0] == batch["labels"][0].tolist()[-1] == -100  # [CLS] and [SEP]
    assert batch["input_ids"][0, [0, 3, 5]].tolist() == [2, 1, 3]  # and [UNK]
    assert batch["num_targets"] == 3


def test_a_long_text_is_consecutive_pieces_and_nothing_is_lost(tmp_path: Path) -> None:
    texts = ["abcdefghijklmnopqrstuvw", "xyz", "hello world again and again"]
    data = made(tmp_path, texts, max_length=10)
    dataset = data.dataset("train")
    rows = [dataset.row(number) for number in range(len(dataset))]
    assert [len(row["input_ids"]) for row in rows] == [8, 8, 7, 3, 8, 8, 7]
    assert "".join(row["text"] for row in rows) == "".join(texts)
    whole = np.concatenate([np.asarray(data.rows("train").row(number)["input_ids"]) for number in range(3)])
    assert np.concatenate([row["input_ids"] for row in rows]).tolist() == whole.tolist()
    assert dataset.lengths("input_ids").tolist() == [8, 8, 7, 3, 8, 8, 7]
    assert [data.place("train", number).rpartition(":")[2] for number in range(7)] == ["1", "1", "1", "2", *"333"]


def test_pieces_divide_no_word_that_fits(tmp_path: Path) -> None:
    masking = MaskingConfig(whole_words=True)
    data = made(tmp_path, ["hello world again and again", "abcdefghijklmnop"], max_length=8, masking=masking)
    dataset = data.dataset("train")
    pieces = [dataset.row(number)["text"].strip() for number in range(len(dataset))]
    assert pieces == ["hello", "world", "again", "and again", "abcdefgh", "ijklmnop"]


def test_to_predict_only_the_masks_of_the_text_are_targets(tmp_path: Path) -> None:
    for name, text in (("characters", "Ab[MASK]c[MASK]"), (str(write_bert(tmp_path / "b", WORDS)), "we [MASK] ball")):
        data = made(tmp_path, ["abc", "we play ball"], tokenizer=name)
        new = MaskedLMData(str(tmp_path / "new.txt"), tokenizer=name)
        (tmp_path / "new.txt").write_text(f"{text}\nabc\n", encoding="utf-8")
        new.adopt(data.facts())
        new.setup("predict")
        (batch,) = new.predict_dataloader()
        assert "labels" not in batch
        by_id = dict(zip(batch["id"], batch["is_target"].sum(1).tolist(), strict=True))
        assert by_id == {0: text.count("[MASK]"), 1: 0}
        assert sorted(batch["text"]) == sorted([text, "abc"])


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert", WORDS)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del settings["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no mask token, which stands for a token to be predicted"):
        made(tmp_path, TEXTS, tokenizer=str(folder))


def test_what_cannot_be_masked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"add up to 0.8 \+ 0.3. Give at most 1"):
        made(tmp_path, TEXTS, masking=MaskingConfig(random_share=0.3))
    with pytest.raises(DataError, match="no token occurs 99 times in the training split, so that all are unknown"):
        made(tmp_path, TEXTS[:3], min_count=99)
    folder = write_bert(tmp_path / "bert", WORDS)
    with pytest.raises(ConfigError, match="max_length is 2, and the tokenizer's special tokens alone take 2"):
        made(tmp_path, TEXTS, tokenizer=str(folder), max_length=2).train_dataloader()
    monkeypatch.setitem(sys.modules, "jieba", None)
    masking = MaskingConfig(whole_words=True)
    made(tmp_path, TEXTS, masking=masking)  # no Chinese: jieba is not needed
    with pytest.raises(ConfigError, match=r"jieba, which is not installed: pip install 'lightrail\[chinese\]'"):
        made(tmp_path, ["北京", "大学"], masking=masking)


def test_paragraphs_are_lines_up_to_a_blank_one(tmp_path: Path) -> None:
    data = made(tmp_path, ["one", "two", "", " ", "three", "", "four", "five"], document="paragraph")
    rows = data.rows("train")
    assert [rows.row(number)["text"] for number in range(len(rows))] == ["one\ntwo", "three", "four\nfive"]
    assert [data.place("train", number).rpartition(":")[2] for number in range(3)] == ["1", "5", "7"]
    with pytest.raises(DataError, match=r"texts.txt:3: 'text' is empty"):
        made(tmp_path, ["one", "two", "", "three"])


DOCUMENTS = {
    chr(97 + number): [f"{chr(97 + number)}{place}{'x' * (place % 4)}。" for place in range(2 + number % 5)]
    for number in range(12)
}
"""Sentences of each text, which begin with its letter and their own number."""


def pairs_of(data: MaskedLMData, number: int = 0) -> dict[int, tuple[str, int]]:
    """Text and label of each pair of an epoch."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    found: dict[Any, Any] = {}
    for batch in loader:
        rows = zip(batch["id"], batch["text"], batch["is_next"].tolist(), strict=True)
        found |= {own: (text, is_next) for own, text, is_next in rows}
    return found


def made_pairs(
    folder: Path, documents: Mapping[str, Sequence[str]] = DOCUMENTS, seed: int = 0, **more: Any
) -> MaskedLMData:
    return made(folder, ["".join(own) for own in documents.values()], seed, next_sentence=True, **more)


@pytest.mark.parametrize("max_length", [14, 40])
def test_a_second_part_follows_the_first_or_is_of_another_text(tmp_path: Path, max_length: int) -> None:
    data, labels = made_pairs(tmp_path, max_length=max_length), Counter[int]()
    for number in range(40):
        for text, is_next in pairs_of(data, number).values():
            first, second = text.split(" ||| ")
            labels[is_next] += 1
            assert (first + second in "".join(DOCUMENTS[first[0]])) == (is_next == 1)
            assert (second[0] == first[0]) == (is_next == 1)
    assert labels[1] / labels.total() == pytest.approx(0.5, abs=0.04)


def test_pairs_read_every_sentence_and_end_where_sentences_do(tmp_path: Path) -> None:
    data = made_pairs(tmp_path, max_length=14)
    dataset = data.dataset("train")
    read = Counter[str]()
    for number in range(len(dataset)):
        row = dataset.row(number)
        drawn = (row["draw_second"](np.random.default_rng(seed)) for seed in itertools.count())
        second = next(part for part, is_next in drawn if is_next)
        for part in (row["first"], second):
            assert part.text.endswith("。")
            read.update(own for own in part.text.split("。") if own)
    assert read.keys() == {own.removesuffix("。") for sentences in DOCUMENTS.values() for own in sentences}
    assert max(read.values()) == 2  # the last but one of an odd number of sentences


def test_pairs_follow_from_seed_epoch_and_example_and_fit(tmp_path: Path) -> None:
    first = epoch(made_pairs(tmp_path))
    assert epoch(made_pairs(tmp_path, batch=BatchConfig(size=3))) == first
    assert epoch(made_pairs(tmp_path, batch=BatchConfig(size=None, max_tokens=64))) == first
    assert epoch(made_pairs(tmp_path), 1) != first
    validation = [rows_of(iter(made_pairs(tmp_path, seed=seed).val_dataloader())) for seed in (0, 1)]
    assert validation[0] == validation[1]
    data = made_pairs(tmp_path, max_length=12)
    lengths = data.dataset("train").lengths("input_ids")
    assert lengths.max() <= 12
    for number in range(30):
        for index, (ids, *_) in epoch(data, number).items():
            assert len(ids) <= lengths[index]


def test_segments_and_separators_mark_the_parts(tmp_path: Path) -> None:
    texts = ["we play. today we.", "ball ball. we today.", "play. play."]
    data = made(tmp_path, texts, tokenizer=str(write_bert(tmp_path / "bert", WORDS)), next_sentence=True)
    batch = one(data, 2)
    assert batch["segment_ids"].shape == batch["input_ids"].shape
    is_second = batch["segment_ids"][0].tolist()
    assert is_second == sorted(is_second)
    assert {0, 1} == set(is_second)
    assert batch["input_ids"][0, is_second.index(1) - 1] == 3  # [SEP]
    ours = made_pairs(tmp_path)
    assert ours.facts()["vocabulary"][:2] == ["[SEP]", "[MASK]"]
    assert ours.facts()["special_ids"] == [0, 1, 2, 3]
    assert (one(ours)["input_ids"] == 2).sum() == 1


def test_a_corpus_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train split: none of 2 texts has two sentences, so that none follows one"):
        made(tmp_path, ["one。", "two three."], next_sentence=True).train_dataloader()
    with pytest.raises(DataError, match=r"one text alone of 2 has several sentences, so that no part is of another"):
        made(tmp_path, ["one。two。three。four。", "two"], next_sentence=True).train_dataloader()


def test_texts_of_one_sentence_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = made(tmp_path, ["one。two。", "three", "four! five", "six"], next_sentence=True)
    assert len(data.dataset("train")) == 2
    assert "train: 2 of 4 texts have one sentence, and give no pair" in caplog.text


def test_second_parts_of_one_dominant_text_still_come_from_another(tmp_path: Path) -> None:
    long = "".join(f"{number}。" for number in range(2000))
    data = made(tmp_path, [long, "a。b。", "c。d。"], next_sentence=True, max_length=11)
    for first, second in ((text.split(" ||| ")) for text, is_next in pairs_of(data).values() if not is_next):
        assert first[0].isdigit() + second[0].isdigit() < 2
    assert all(begin <= end for begin, end in pairwise(sorted(data.dataset("train").lengths("input_ids").tolist())))
