"""What is kept of a long text, and where the special tokens go, agrees with Hugging Face where it does the same."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.tokenizing import load_tokenizer
from lightrail.project.basics.tokens.truncating import Frame, Truncation, kept, lay_out, shared_room
from tests.support.texts import write_word_pieces

LONG = "low new lower newer lowest newest"
SHORT = "new low"
FRAME = Frame((100,), (101,), (102, 103), (0, 0, 0, 1, 1))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("max_length", [3, 4, 5, 7, 50])
def test_a_text_is_cut_as_hugging_face_cuts_it(tmp_path: Path, side: str, max_length: int) -> None:
    folder = write_word_pieces(tmp_path)
    expected = PreTrainedTokenizerFast.from_pretrained(folder, truncation_side=side)
    tokenizer = load_tokenizer(folder, lower_case=True)
    truncation: Truncation = "head" if side == "right" else "tail"
    layout = lay_out([tokenizer.numbers(LONG, [])], tokenizer.frame(is_pair=False), max_length, truncation)
    assert layout.input_ids.tolist() == expected.encode(LONG, truncation=True, max_length=max_length)
    assert layout.num_tokens == len(expected.encode(LONG))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("texts", [(LONG, SHORT), (SHORT, LONG), (LONG, LONG), (SHORT, SHORT)])
@pytest.mark.parametrize("max_length", [5, 6, 8, 9, 50])
def test_a_pair_is_cut_as_hugging_face_cuts_it(
    tmp_path: Path, side: str, texts: tuple[str, str], max_length: int
) -> None:
    folder = write_word_pieces(tmp_path)
    pair = PreTrainedTokenizerFast.from_pretrained(
        folder, truncation_side=side, model_input_names=["input_ids", "token_type_ids"]
    )
    expected = pair(*texts, truncation="longest_first", max_length=max_length)
    tokenizer = load_tokenizer(folder, lower_case=True)
    numbers = [tokenizer.numbers(text, []) for text in texts]
    truncation: Truncation = "head" if side == "right" else "tail"
    layout = lay_out(numbers, tokenizer.frame(is_pair=True), max_length, truncation)
    assert layout.input_ids.tolist() == expected["input_ids"]
    assert layout.segment_ids.tolist() == expected["token_type_ids"]
    assert layout.num_tokens == len(pair(*texts)["input_ids"])


def test_head_and_tail_are_those_of_the_paper() -> None:
    text = list(range(1000))
    assert kept(text, 510, "head_tail") == text[:128] + text[-382:]
    assert kept(text[:510], 510, "head_tail") == text[:510]


@given(st.integers(0, 40), st.integers(1, 30), st.sampled_from(["head", "tail", "head_tail"]))
def test_a_cut_text_fills_its_room_in_order(length: int, room: int, truncation: Truncation) -> None:
    left = kept(list(range(length)), room, truncation)
    assert len(left) == min(length, room)
    assert left == sorted(set(left))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=2), st.integers(2, 30))
def test_the_room_is_filled_and_nobody_gets_more_than_it_has(lengths: list[int], room: int) -> None:
    shares = shared_room(lengths, room)
    assert sum(shares) == min(sum(lengths), room)
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    assert all(share >= min(length, room // 2) for share, length in zip(shares, lengths, strict=True))


@given(st.integers(1, 60), st.integers(4, 12))
def test_windows_are_framed_full_and_show_every_token(length: int, max_length: int) -> None:
    layout = lay_out([list(range(length))], FRAME, max_length, "windows")
    room = max_length - 3
    if length <= room:
        assert layout.input_ids.tolist() == [100, *range(length), 102, 103]
        return
    windows = layout.input_ids.reshape(-1, max_length)
    assert (windows[:, 0] == 100).all()
    assert (windows[:, -2:] == [102, 103]).all()
    inner = windows[:, 1:-2]
    assert sorted(set(inner.ravel().tolist())) == list(range(length))
    assert (inner == inner[:, :1] + range(room)).all()
    assert layout.num_tokens == length + 3


def test_special_tokens_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length is 3, and the tokenizer's special tokens alone take 3"):
        lay_out([[1, 2]], FRAME, 3, "head")
    with pytest.raises(ConfigError, match=r"special tokens alone take 4\. Increase it"):
        lay_out([[1, 2], [3]], FRAME, 5, "head")
