"""Texts become the numbers that a vocabulary, or a Hugging Face tokenizer, gives them."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.tokenizing import FIRST, PAD, UNKNOWN, load_tokenizer, vocabulary_of
from project.errors import ConfigError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_word_pieces(folder: Path, *, texts: list[str] | None = None, has_frame: bool = True) -> str:
    """A real word-piece tokenizer, as transformers writes it; `has_frame`: texts stand between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(texts or ["low lower lowest", "new newer newest"], trainer)
    if has_frame:
        frame = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)


def test_characters_are_numbered_by_the_vocabulary() -> None:
    tokenizer = load_tokenizer("characters", lower_case=True)
    assert tokenizer.needs_vocabulary
    assert tokenizer.split("Ab 你\t！") == ["a", "b", "你", "！"]
    assert tokenizer.encode("Ab 你!", ["b", "你", "a"]) == [FIRST + 2, FIRST, FIRST + 1, UNKNOWN]
    assert tokenizer.pad_id == PAD


def test_words_are_letters_or_single_signs() -> None:
    tokenizer = load_tokenizer("words", lower_case=False)
    assert tokenizer.split("Don't stop, 2nd-best  (now)") == [
        *("Don", "'", "t", "stop", ",", "2nd", "-", "best", "(", "now", ")"),
    ]


def test_case_counts_only_where_it_is_kept() -> None:
    vocabulary = ["yes", "Yes"]
    assert load_tokenizer("words", lower_case=True).encode("Yes yes", vocabulary) == [FIRST, FIRST]
    assert load_tokenizer("words", lower_case=False).encode("Yes yes", vocabulary) == [FIRST + 1, FIRST]


def test_another_vocabulary_of_the_same_size_gives_other_numbers() -> None:
    tokenizer = load_tokenizer("words", lower_case=True)
    assert tokenizer.encode("a b", ["a", "b"]) == [FIRST, FIRST + 1]
    assert tokenizer.encode("a b", ["b", "a"]) == [FIRST + 1, FIRST]


@pytest.mark.parametrize("name", ["characters", "words"])
def test_a_text_without_tokens_is_one_unknown(name: str) -> None:
    assert load_tokenizer(name, lower_case=True).encode(" \n", ["a"]) == [UNKNOWN]


@pytest.mark.parametrize("name", ["characters", "words"])
@given(text=st.text())
def test_no_sign_is_lost_and_every_token_is_numbered(name: str, text: str) -> None:
    tokenizer = load_tokenizer(name, lower_case=False)
    assert "".join(tokenizer.split(text)) == "".join(text.split())
    vocabulary = sorted(set(tokenizer.split(text)))
    ids = tokenizer.encode(text, vocabulary)
    if text.split():
        assert [vocabulary[number - FIRST] for number in ids] == tokenizer.split(text)
    assert tokenizer.cut(ids, 3) == ids[:3]


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
        assert tokenizer.encode(text, []) == expected.encode(text, truncation=False)
    assert not tokenizer.needs_vocabulary
    assert tokenizer.pad_id == expected.pad_token_id
    assert tokenizer.split("low newest") == expected.tokenize("low newest")


def test_a_cut_text_keeps_the_sign_that_ends_it(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path)
    tokenizer = load_tokenizer(folder, lower_case=True)
    expected = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer.encode("low new lower newer lowest", [])
    for length in (2, 3, 4, len(ids), len(ids) + 5):
        assert tokenizer.cut(ids, length) == expected.encode(
            "low new lower newer lowest", truncation=True, max_length=length
        )


def test_a_tokenizer_without_a_frame_is_cut_plainly(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_word_pieces(tmp_path, has_frame=False), lower_case=True)
    ids = tokenizer.encode("low new low", [])
    assert len(ids) == 3
    assert tokenizer.cut(ids, 2) == ids[:2]


def test_a_text_of_which_a_hugging_face_tokenizer_leaves_nothing_is_one_unknown(tmp_path: Path) -> None:
    folder = write_word_pieces(tmp_path, has_frame=False)
    unknown = PreTrainedTokenizerFast.from_pretrained(folder).unk_token_id
    assert load_tokenizer(folder, lower_case=True).encode("\u200b\u200d", []) == [unknown]


def test_the_digest_tells_tokenizers_apart_whatever_their_folder(tmp_path: Path) -> None:
    one = load_tokenizer(write_word_pieces(tmp_path / "one"), lower_case=True)
    same = load_tokenizer(str(shutil.copytree(tmp_path / "one", tmp_path / "same")), lower_case=True)
    other = load_tokenizer(write_word_pieces(tmp_path / "other", texts=["something else"]), lower_case=True)
    assert one.digest == same.digest != other.digest
    assert load_tokenizer("words", lower_case=True).digest != load_tokenizer("characters", lower_case=True).digest


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer: 'wrods' is neither characters nor words nor a tokenizer"):
        load_tokenizer("wrods", lower_case=True)
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .* can be loaded"):
        load_tokenizer(str(tmp_path), lower_case=True)
