"""Every unit has a place in what the encoder reads, in the window that shows most around it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lightrail.datamodules.spans.aligning import Positions, SubwordAligner, in_windows, load_unit_encoder
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.truncating import best_windows, window_starts
from lightrail.project.basics.tokens.units import Offsets, cut_text, join_units
from tests.support.tagged_texts import WORDS, batch_of, tagged
from tests.support.texts import write_word_pieces

TEXTS = ["low lower lowest", "new newer newest", "北京 2008"]


def windows_of(positions: Positions) -> list[list[int]]:
    cut = positions.window_lengths.cumsum()[:-1]
    return [window.tolist() for window in np.split(positions.input_ids, cut)]


@given(length=st.integers(1, 60), size=st.integers(1, 20))
def test_windows_cover_a_sequence_and_overlap(length: int, size: int) -> None:
    starts = window_starts(length, size)
    seen = [place for start in starts for place in range(start, min(start + size, length))]
    assert set(seen) == set(range(length))
    assert len(set(starts)) == len(starts)
    assert starts[-1] + size == length or starts == [0]
    overlaps = [before + size - after for before, after in pairwise(starts)]
    assert all(overlap >= size // 4 for overlap in overlaps)


@given(length=st.integers(1, 60), size=st.integers(1, 20))
def test_each_place_is_in_the_window_that_shows_most_around_it(length: int, size: int) -> None:
    starts = window_starts(length, size)

    def shown(place: int, start: int) -> float:
        end = start + size
        if not start <= place < end:
            return -1
        left = place - start if start > 0 else np.inf
        return min(left, end - 1 - place if end < length else np.inf)

    best = best_windows(np.arange(length), length, size)
    for place, window in enumerate(best.tolist()):
        assert shown(place, starts[window]) == max(shown(place, start) for start in starts) >= 0


@given(length=st.integers(1, 50), size=st.integers(3, 12), data=st.data())
def test_places_hold_the_unit_they_stand_for(length: int, size: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))
    ids = list(range(100, 100 + length))
    positions = in_windows(ids, places, size, ([7], [8]))
    assert positions.input_ids[positions.places].tolist() == [100 + place for place in places]
    for window in windows_of(positions):
        assert (window[0], window[-1], len(window) <= size) == (7, 8, True)
    assert sorted({number for number in positions.input_ids.tolist() if number >= 100}) == ids


def test_special_tokens_alone_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length is 2, and the tokenizer's special tokens alone take 2"):
        in_windows([1], [0], 2, ([7], [8]))


def test_words_are_split_as_transformers_does(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path, texts=TEXTS)
    expected = PreTrainedTokenizerFast.from_pretrained(folder)
    for words in (["Low", "newest", "xyz"], ["lower"], ["2008", "北", "京"]):
        text, offsets = join_units(words, "words")
        positions = SubwordAligner(folder).encode(text, offsets, [], 512)
        encoded = expected(words, is_split_into_words=True)
        assert positions.input_ids.tolist() == encoded["input_ids"]
        firsts = [encoded.word_ids().index(word) for word in range(len(words))]
        assert positions.places.tolist() == firsts


def test_a_unit_of_which_nothing_is_left_is_unknown(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path, texts=TEXTS)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    positions = SubwordAligner(folder).encode("low\u200bnew\ud83d", [(0, 3), (3, 4), (4, 7), (7, 8)], [], 512)
    assert positions.input_ids[positions.places[1]] == tokenizer.unk_token_id
    assert len(positions.places) == 4


def test_cutting_and_padding_of_the_tokenizer_itself_do_not_count(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path, texts=TEXTS)
    file = Path(folder) / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    file.write_text(json.dumps(content), "utf-8")
    text = "low " * 20
    positions = SubwordAligner(folder).encode(text, cut_text(text, "words"), [], 512)
    assert len(positions.places) == 20
    assert len(set(positions.input_ids[positions.places].tolist())) == 1
    assert 0 not in positions.input_ids.tolist()


def save(tokenizer: Tokenizer, folder: Path, *texts: str, **trained: Any) -> SubwordAligner:
    trainer = trainers.BpeTrainer(special_tokens=["<pad>", "<unk>"], **trained)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return SubwordAligner(str(folder))


def pieces(aligner: SubwordAligner, text: str, offsets: Offsets) -> tuple[list[str], list[int]]:
    positions = aligner.encode(text, offsets, [], 512)
    return [aligner._backend.id_to_token(number) for number in positions.input_ids.tolist()], positions.places.tolist()


def test_a_byte_level_tokenizer_sees_the_spaces_of_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    aligner = save(tokenizer, tmp_path, "ab ab, ab", initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    text = "ab ab,"
    assert pieces(aligner, text, cut_text(text, "words")) == (["ab", "Ġab", ","], [0, 1, 2])


def test_no_space_is_put_between_characters(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    aligner = save(tokenizer, tmp_path, "北 京 ab", vocab_size=7)
    assert pieces(aligner, "北京 北", [(0, 1), (1, 2), (3, 4)]) == (["▁", "北", "京", "▁", "北"], [1, 2, 4])


def test_windows_of_a_batch_are_placed_in_its_padded_states(tmp_path: Path) -> None:
    words = ["low", "new", "lowest", "newer", "lower", "newest", "low", "new", "lowest", "newer"]
    folder = write_word_pieces(tmp_path / "tokenizer", texts=TEXTS)
    lines = "".join(f"{word} B-X\n" for word in words) + "\nnew O\nlow O\n"
    data = tagged(tmp_path, lines, units="words", tokenizer=folder, max_length=6)
    batch = batch_of(data, 1, 0)
    is_long = batch["text_of_window"] == 1
    assert batch["text_of_window"].tolist() == [0, *[1] * (len(is_long) - 1)]
    assert is_long.sum() > 2
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(is_long), 6)
    first_pieces = PreTrainedTokenizerFast.from_pretrained(folder)
    expected = [first_pieces(word, add_special_tokens=False)["input_ids"][0] for word in words]
    read = batch["input_ids"].flatten()[batch["word_places"]]
    assert read[1, batch["word_mask"][1]].tolist() == expected
    assert read[0, batch["word_mask"][0]].tolist() == [expected[1], expected[0]]
    assert batch["num_tokens"] == int(batch["attention_mask"].sum())
    page = " ".join(data.report().render().split())
    assert "1 of 2 (50.0 %) train texts are longer than a window and are read in several" in page
    assert "Cut at" not in page


@pytest.mark.parametrize(("max_length", "text_of_window"), [(2, [0, 0, 1]), (1, [0, 0, 0, 1, 1])])
def test_long_texts_from_scratch_are_windows_too_and_short_ones_keep_their_places(
    tmp_path: Path, max_length: int, text_of_window: list[int]
) -> None:
    data = tagged(tmp_path, WORDS, units="words", max_length=max_length)
    batch = batch_of(data, 0, 1)
    assert batch["text_of_window"].tolist() == text_of_window
    numbers = {word: 2 + number for number, word in enumerate(data.facts()["vocabulary"])}
    read = batch["input_ids"].flatten()[batch["word_places"]][batch["word_mask"]].tolist()
    assert read == [numbers[word] for word in WORDS.split()[::2]]


def test_a_tokenizer_changes_where_rows_are_kept(tmp_path: Path) -> None:
    before = tagged(tmp_path, WORDS, units="words", tokenizer=write_word_pieces(tmp_path / "t", texts=TEXTS))
    after = tagged(tmp_path, WORDS, units="words", tokenizer=write_word_pieces(tmp_path / "t", texts=["else"]))
    assert before.rows("train").folder != after.rows("train").folder
    assert before.facts()["vocabulary"] == []


def test_units_are_numbered_without_another_library() -> None:
    encoder = load_unit_encoder("units", lower_case=True)
    assert encoder.encode("Ab", [(0, 1), (1, 2)], ["b", "a"], 9).input_ids.tolist() == [3, 2]
    assert encoder.encode("Ab", [(0, 1), (1, 2)], ["a"], 9).input_ids.tolist() == [2, 1]
