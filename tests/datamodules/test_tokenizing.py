"""Texts become the numbers that a vocabulary, or a Hugging Face tokenizer, gives them."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.tokenizing import FIRST, PAD, UNKNOWN, load_tokenizer, vocabulary_of
from lightrail.project.basics.tokens.truncating import Frame
from tests.support.texts import write_word_pieces


def test_characters_are_numbered_by_the_vocabulary() -> None:
    tokenizer = load_tokenizer("characters", lower_case=True)
    assert tokenizer.needs_vocabulary
    assert tokenizer.split("Ab 你\t！") == ["a", "b", "你", "！"]
    assert tokenizer.numbers("Ab 你!", ["b", "你", "a"]) == [FIRST + 2, FIRST, FIRST + 1, UNKNOWN]
    assert tokenizer.pad_id == PAD


def test_words_are_letters_or_single_signs() -> None:
    tokenizer = load_tokenizer("words", lower_case=False)
    assert tokenizer.split("Don't stop, 2nd-best  (now)") == [
        *("Don", "'", "t", "stop", ",", "2nd", "-", "best", "(", "now", ")"),
    ]


def test_case_counts_only_where_it_is_kept() -> None:
    vocabulary = ["yes", "Yes"]
    assert load_tokenizer("words", lower_case=True).numbers("Yes yes", vocabulary) == [FIRST, FIRST]
    assert load_tokenizer("words", lower_case=False).numbers("Yes yes", vocabulary) == [FIRST + 1, FIRST]


def test_another_vocabulary_of_the_same_size_gives_other_numbers() -> None:
    tokenizer = load_tokenizer("words", lower_case=True)
    assert tokenizer.numbers("a b", ["a", "b"]) == [FIRST, FIRST + 1]
    assert tokenizer.numbers("a b", ["b", "a"]) == [FIRST + 1, FIRST]


@pytest.mark.parametrize("name", ["characters", "words"])
@given(text=st.text())
def test_no_sign_is_lost_and_every_token_is_numbered(name: str, text: str) -> None:
    tokenizer = load_tokenizer(name, lower_case=False)
    assert "".join(tokenizer.split(text)) == "".join(text.split())
    vocabulary = sorted(set(tokenizer.split(text)))
    ids = tokenizer.numbers(text, vocabulary)
    assert [vocabulary[number - FIRST] for number in ids] == tokenizer.split(text)


def test_the_vocabulary_holds_the_most_frequent_tokens_first() -> None:
    counts = Counter({"b": 3, "a": 3, "rare": 1, "c": 5, "d": 2})
    assert vocabulary_of(counts, most=10, min_count=2) == ["c", "a", "b", "d"]
    assert vocabulary_of(counts, most=2, min_count=2) == ["c", "a"]
    assert vocabulary_of(counts, most=10, min_count=6) == []


def test_a_hugging_face_tokenizer_numbers_as_transformers_does(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path)
    tokenizer = load_tokenizer(folder, lower_case=True)
    expected = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("Low newest", "lowest xyz new", "new " * 700):
        assert tokenizer.numbers(text, []) == expected.encode(text, truncation=False, add_special_tokens=False)
    assert not tokenizer.needs_vocabulary
    assert tokenizer.pad_id == expected.pad_token_id
    assert tokenizer.split("low newest") == expected.tokenize("low newest")


def test_a_frame_is_what_the_tokenizer_itself_puts_around_texts(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_word_pieces(tmp_path / "framed"), lower_case=True)
    pad, unknown, begin, end = range(4)
    assert tokenizer.frame(is_pair=False) == Frame((begin,), after=(end,))
    assert tokenizer.frame(is_pair=True) == Frame((begin,), (end,), (end,), (0, 0, 0, 1, 1))
    bare = load_tokenizer(write_word_pieces(tmp_path / "bare", has_frame=False), lower_case=True)
    assert bare.frame(is_pair=False) == Frame()
    assert load_tokenizer("words", lower_case=True).frame(is_pair=True) == Frame(between=(FIRST,))
    assert (tokenizer.pad_id, tokenizer.unknown_id) == (pad, unknown)


def test_half_a_character_does_not_stop_a_hugging_face_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_word_pieces(tmp_path), lower_case=True)
    assert tokenizer.numbers("low \ud83d new", []) == tokenizer.numbers("low new", [])


def test_the_digest_tells_tokenizers_apart_whatever_their_folder(tmp_path: Path) -> None:
    one = load_tokenizer(write_word_pieces(tmp_path / "one"), lower_case=True)
    same = load_tokenizer(str(shutil.copytree(tmp_path / "one", tmp_path / "same")), lower_case=True)
    other = load_tokenizer(write_word_pieces(tmp_path / "other", texts=["something else"]), lower_case=True)
    assert one.digest == same.digest != other.digest
    assert load_tokenizer("words", lower_case=True).digest != load_tokenizer("characters", lower_case=True).digest


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.tokenizer: 'wrods' cannot be loaded: .* Name characters, words, subwords"
    ):
        load_tokenizer("wrods", lower_case=True)
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .* cannot be loaded"):
        load_tokenizer(str(tmp_path), lower_case=True)
