"""The comparison with other input methods divides what is typed, and counts edits, as its tables say."""

from pathlib import Path

import pytest

from benchmarks.pinyin.corpora import Corpus, parts, read_letters, read_syllables


def test_only_what_is_pinyin_is_converted() -> None:
    assert parts("ni hao ， zhong guo ！") == [("ni'hao", True), ("，", False), ("zhong'guo", True), ("！", False)]
    assert parts("nihao？") == [("nihao", True), ("？", False)]


def test_accuracy_counts_hanzi_alone_and_edits_count_everything() -> None:
    corpus = Corpus("x", ["wo ai ni 。", "hao"], ["我爱你。", "好"])
    assert corpus.accuracy(["我艾你！", "好"]) == pytest.approx(0.75)
    assert corpus.num_edits(["我艾你！", "好"]) == 2


def test_files_are_read_with_the_rows_that_were_answered(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("你好。\tni hao 。\n我\two\n", encoding="utf-8")
    assert read_syllables(tmp_path / "x.tsv", most=1) == Corpus("x", ["ni hao 。"], ["你好。"])
    (tmp_path / "input.csv").write_text("NUM,PINYIN,EXPECTED\n1,wo,我\n2,nihao。,你好。\n", encoding="utf-8")
    answered = "NUM,EXPECTED,SWIFTKEY,# characters,edit distance\n2,你好。,拟好。,3,1\nTotal CER: 1/3,,,,\n"
    (tmp_path / "swiftkey_qwerty.csv").write_text(answered, encoding="utf-8")
    corpus, answers = read_letters(tmp_path)
    assert corpus == Corpus("letters", ["nihao。"], ["你好。"])
    assert corpus.num_edits(answers) == 1
