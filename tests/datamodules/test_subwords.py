"""Subwords are the same wherever they are trained, and their list alone rebuilds them."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightrail.project.basics.tokens.tokenizing import FIRST, UNKNOWN, load_tokenizer

TEXTS = ["low lower lowest", "new newer newest", "北京很好", "low-new 北京"]


def trained(texts: list[str] = TEXTS, most: int = 100, min_count: int = 1) -> list[str]:
    tokenizer = load_tokenizer("subwords", lower_case=True)
    counts = Counter(word for text in texts for word in tokenizer.split(text))
    return tokenizer.vocabulary(counts, most, min_count)


def pieces(text: str, vocabulary: list[str]) -> list[str]:
    numbers = load_tokenizer("subwords", lower_case=True).numbers(text, vocabulary)
    return ["?" if number == UNKNOWN else vocabulary[number - FIRST] for number in numbers]


def test_words_end_at_punctuation_and_around_chinese_characters() -> None:
    tokenizer = load_tokenizer("subwords", lower_case=True)
    assert tokenizer.split("Low-new, 北京很好 A1") == ["low", "-", "new", ",", "北", "京", "很", "好", "a1"]
    assert load_tokenizer("subwords", lower_case=False).split("É") == ["É"]


def test_a_word_is_cut_into_its_longest_known_beginnings() -> None:
    vocabulary = ["low", "lo", "l", "##w", "##er", "##e", "##r", "##est"]
    assert pieces("lower LOWEST low lo", vocabulary) == ["low", "##er", "low", "##est", "low", "lo"]
    assert pieces("lowx low", vocabulary) == ["?", "low"]
    assert pieces("a" * 5000, ["a", "##a"]) == ["?"]
    assert pieces(" ", vocabulary) == []


def test_frequent_words_become_one_piece_and_rare_characters_unknown() -> None:
    vocabulary = trained(["low low low low", "lower lower", "z"], min_count=2)
    assert pieces("low", vocabulary) == ["low"]
    assert pieces("z", vocabulary) == ["?"]
    assert "w" not in vocabulary  # it only ever goes on with a word


@pytest.mark.parametrize("most", [1, 5, 12, 20])
def test_no_more_pieces_are_learned_than_asked_for(most: int) -> None:
    vocabulary = trained(most=most)
    assert len(vocabulary) == len(set(vocabulary)) == most
    assert len(trained([])) == 0


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_what_it_was_trained_on_can_be_spelled_again(texts: list[str]) -> None:
    tokenizer = load_tokenizer("subwords", lower_case=False)
    counts = Counter(word for text in texts for word in tokenizer.split(text))
    vocabulary = tokenizer.vocabulary(counts, 10_000, 1)
    for text in texts:
        found = [vocabulary[number - FIRST] for number in tokenizer.numbers(text, vocabulary)]
        words = tokenizer.split(text)
        assert "".join(piece.removeprefix("##") if len(piece) > 2 else piece for piece in found) == "".join(words)


def test_two_processes_train_the_same_pieces_in_the_same_order() -> None:
    program = (
        "import random; from collections import Counter;"
        "from lightrail.project.basics.tokens.tokenizing import load_tokenizer;"
        "random.seed(0); words = [''.join(random.choices('abcdefgh', k=random.randint(1, 7))) for _ in range(2000)];"
        "print(load_tokenizer('subwords', lower_case=True).vocabulary(Counter(words), 200, 1))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
        for _ in range(3)
    ]
    assert runs[0].count(",") == 199
    assert len(set(runs)) == 1
