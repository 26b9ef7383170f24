"""Whatever the data: read once, split by text, learned from train alone, encoded once, dealt out in batches."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast, final

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, pad
from lightrail.datamodules.cache.building import split_of
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.reading import Row
from lightrail.project.basics.errors import ConfigError, DataError
from tests.support.texts import lines, ready, three_files
from tests.support.tiny import quiet_trainer

HALF = SplitConfig(validation_fraction=0.25, test_fraction=0.25)


@final
class Words(DataModule):
    """Texts as the numbers of their words; a bar divides a record into several."""

    max_length = 3
    length_unit = "words"
    calls: ClassVar[list[tuple[str, str]]] = []

    def __init__(
        self,
        path: str,
        *,
        validation_path: str | None = None,
        test_path: str | None = None,
        offset: int = 1,
        split: SplitConfig = HALF,
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(size=2),
    ) -> None:
        super().__init__(
            path=path, validation_path=validation_path, test_path=test_path, split=split, reading=reading, batch=batch
        )
        self.offset = offset
        self.calls.clear()

    def columns(self, split: Split) -> Sequence[str]:
        return ("text",)

    def settings(self) -> Mapping[str, Any]:
        return {"offset": self.offset}

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        for text in row.values["text"].split("|"):
            yield Row({"text": text}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        words: dict[str, None] = {}
        for example in train:
            self.calls.append(("learn", example.values["text"]))
            words.update(dict.fromkeys(example.values["text"].split()))
        return {"vocabulary": list(words)}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        text = example.values["text"]
        self.calls.append(("encode", text))
        if "refuse" in text:
            raise DataError(f"{example.file}:{example.line}: refused. Write something else.")
        known = {word: number for number, word in enumerate(facts["vocabulary"], start=self.offset)}
        return {"input_ids": np.array([known.get(word, 0) for word in text.split()]), "text": text}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        return {"id": [row["id"] for row in rows], "input_ids": pad([row["input_ids"] for row in rows], 0)}

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        return Inspected(length=len(row["input_ids"]), target=row["text"][-1], labels=(row["text"][-1],))


def texts(data: DataModule, split: Split) -> list[str]:
    rows = data.rows(split)
    return [str(rows.row(number)["text"]) for number in range(len(rows))]


def numbers(data: DataModule, split: Split) -> list[list[int]]:
    rows = data.rows(split)
    return [np.asarray(rows.row(number)["input_ids"]).tolist() for number in range(len(rows))]


def sentences(number: int) -> list[str]:
    return [f"sentence number {number}" for number in range(number)]


def test_facts_are_learned_from_all_training_examples_before_any_is_encoded(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a b|c", "d a"], ["c e"], ["f b"])
    data = ready(Words(**files))
    learned, encoded = Words.calls[:3], Words.calls[3:]
    assert learned == [("learn", "a b"), ("learn", "c"), ("learn", "d a")]
    assert sorted(encoded) == [("encode", text) for text in ("a b", "c", "c e", "d a", "f b")]
    assert data.facts() == {"vocabulary": ["a", "b", "c", "d"]}
    assert data.rows("train").row(2) == {"input_ids": pytest.approx([4, 1]), "text": "d a", "file": 0, "line": 2}
    assert numbers(data, "validation") + numbers(data, "test") == [[3, 0], [0, 2]]


def test_one_file_is_divided_by_the_text_and_the_seed_of_the_split(tmp_path: Path) -> None:
    rows = sentences(200)
    split = SplitConfig(validation_fraction=0.2, test_fraction=0.1, seed=5)
    path = lines(tmp_path, "all.txt", *rows)
    data = Words(path, split=split)
    data.order_seed = 99
    ready(data)
    for name in ("train", "validation", "test"):
        assert texts(data, name) == [text for text in rows if split_of(text, 5, 0.2, 0.1) == name]
    other = ready(Words(path, split=SplitConfig(validation_fraction=0.2, test_fraction=0.1, seed=6)))
    assert texts(other, "test") != texts(data, "test")


def test_a_split_with_a_source_of_its_own_takes_nothing_from_the_training_file(tmp_path: Path) -> None:
    rows = sentences(100)
    path, own = lines(tmp_path, "all.txt", *rows), lines(tmp_path, "own.txt", "a test", "another")
    with_test = ready(Words(path, test_path=own, split=HALF))
    assert texts(with_test, "test") == ["a test", "another"]
    assert sorted(texts(with_test, "train") + texts(with_test, "validation")) == sorted(rows)
    assert texts(with_test, "validation") == [text for text in rows if split_of(text, 0, 0.25, 0.0) == "validation"]
    with_both = ready(Words(path, validation_path=own, test_path=own, split=HALF))
    assert texts(with_both, "train") == rows


def test_without_drop_repeats_all_rows_stay(tmp_path: Path) -> None:
    data = ready(Words(**three_files(tmp_path, ["a", "a", "b"], ["a"], ["a", "a"])))
    assert [texts(data, split) for split in ("train", "validation", "test")] == [["a", "a", "b"], ["a"], ["a", "a"]]


def test_of_repeats_the_test_set_keeps_its_own_then_validation_then_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = three_files(tmp_path, ["a", "v", "t", "b|a", "ａ"], ["v", "t", "w", "v"], ["t", "u", "t"])
    with caplog.at_level(logging.INFO):
        data = ready(Words(**files, split=SplitConfig(drop_repeats=True)))
    assert texts(data, "test") == ["t", "u"]
    assert texts(data, "validation") == ["v", "w"]
    assert texts(data, "train") == ["a", "b"]  # full width and half width are the same text
    assert "dropped 7 examples that repeat another one" in caplog.text


def test_facts_of_a_trained_module_are_used_instead_of_learned_ones(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a b"], ["b"], ["a"])
    own = ready(Words(**files))
    adopting = Words(**files)
    adopting.adopt({"vocabulary": ["x", "b"]})
    ready(adopting)
    assert ("learn", "a b") not in Words.calls
    assert adopting.facts() == {"vocabulary": ["x", "b"]}
    assert numbers(adopting, "train") == [[0, 2]]
    assert numbers(own, "train") == [[1, 2]]
    assert texts(ready(Words(**files)), "test") == texts(adopting, "test")


def num_encoded(data: Words) -> int:
    ready(data)
    return sum(name == "encode" for name, _ in Words.calls)


def test_what_was_encoded_once_is_found_again(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a b"], ["b"], ["found again"])
    assert num_encoded(Words(**files)) == 3
    again = Words(**files, batch=BatchConfig(size=7))
    again.order_seed = 3
    assert num_encoded(again) == 0
    assert texts(again, "test") == ["found again"]
    assert again.facts() == {"vocabulary": ["a", "b"]}
    shutil.move(files["path"], tmp_path / "renamed.txt")
    assert num_encoded(Words(**{**files, "path": str(tmp_path / "renamed.txt")})) == 0


@pytest.mark.parametrize("change", ["setting", "split", "reading", "content", "facts"])
def test_what_would_be_encoded_otherwise_is_encoded_again(tmp_path: Path, change: str) -> None:
    files = three_files(tmp_path, ["a b"], ["b"], ["change of", change])
    assert num_encoded(Words(**files)) == 4
    if change == "content":
        lines(tmp_path, "validation.txt", "c")
    changed = {
        "setting": Words(**files, offset=2),
        "split": Words(**files, split=SplitConfig(seed=1)),
        "reading": Words(**files, reading=ReadingConfig(empty="skip")),
        "content": Words(**files),
        "facts": Words(**files),
    }[change]
    if change == "facts":
        changed.adopt({"vocabulary": ["b"]})
    assert num_encoded(changed) == 4


def test_the_same_bytes_read_as_another_format_are_other_data(tmp_path: Path) -> None:
    own: dict[str, Any] = {"validation_path": lines(tmp_path, "v.txt", "v"), "test_path": lines(tmp_path, "t.txt", "t")}
    as_lines = ready(Words(lines(tmp_path, "same.txt", "text", "a"), **own))
    as_table = ready(Words(lines(tmp_path, "same.csv", "text", "a"), **own))
    assert [texts(data, "train") for data in (as_lines, as_table)] == [["text", "a"], ["a"]]


def test_setting_up_twice_changes_nothing(tmp_path: Path) -> None:
    data = ready(Words(**three_files(tmp_path, ["a"], ["b"], ["twice"])))
    rows = data.rows("train")
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.rows("train") is rows


def test_a_row_that_cannot_be_encoded_stops_everything_and_leaves_no_cache(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a"], ["b"], ["fine", "refuse this"])
    for _ in range(2):
        with pytest.raises(DataError, match=r"test\.txt:2: refused"):
            ready(Words(**files))
    lines(tmp_path, "test.txt", "fine", "now")
    assert len(ready(Words(**files)).rows("test")) == 2


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        (
            (0.0, 0.5),
            r"no validation examples \(.*0 validation.*\)\. Give more rows, a larger data\.split\.validation_f",
        ),
        ((0.5, 0.0), r"no test examples .* or data\.test_path"),
        ((0.499, 0.499), r"no examples to train on .* smaller validation and test fractions"),
    ],
)
def test_a_split_without_examples_is_refused(tmp_path: Path, fractions: tuple[float, float], message: str) -> None:
    split = SplitConfig(validation_fraction=fractions[0], test_fraction=fractions[1])
    with pytest.raises(DataError, match=message):
        ready(Words(lines(tmp_path, "few.txt", *sentences(20)), split=split))


def test_a_split_of_repeats_alone_is_refused(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a"], ["t"], ["t"])
    with pytest.raises(DataError, match=r"validation\.txt: no validation examples .*all repeat .*drop_repeats=false"):
        ready(Words(**files, split=SplitConfig(drop_repeats=True)))


def test_fractions_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    split = SplitConfig(validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match=r"data\.split\.validation_fraction=0\.5"):
        ready(Words(lines(tmp_path, "few.txt", "a"), split=split))


def test_a_missing_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tset\.txt: no such file"):
        ready(Words(lines(tmp_path, "a.txt", "a"), test_path=str(tmp_path / "tset.txt")))
    assert not Words.calls


def test_summaries_name_content_rather_than_files(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a", "b"], ["v"], ["t"])
    summaries = ready(Words(**files)).summaries()
    assert [(own.name, own.num_rows, own.source) for own in summaries] == [
        ("train", 2, files["path"]),
        ("validation", 1, files["validation_path"]),
        ("test", 1, files["test_path"]),
    ]
    assert len({own.digest for own in summaries}) == 3
    (tmp_path / "other").mkdir()
    other = ready(Words(**three_files(tmp_path / "other", ["a", "c"], ["v"], ["t"]), offset=4)).summaries()
    assert [own.digest == before.digest for own, before in zip(other, summaries, strict=True)] == [False, True, True]


def test_splits_of_one_file_name_it_as_their_source(tmp_path: Path) -> None:
    path = lines(tmp_path, "all.txt", *sentences(60))
    assert {own.source for own in ready(Words(path)).summaries()} == {path}


def test_the_report_finds_leaks_and_cuts_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = three_files(Path(), ["a b", "one two three four five", "b c"], ["v v"], ["t t", "b c"])
    report = ready(Words(**files)).report()
    assert [(split.name, len(split), split.source) for split in report.splits] == [
        ("train", 3, files["path"]),
        ("validation", 1, files["validation_path"]),
        ("test", 2, files["test_path"]),
    ]
    assert report.splits[0].lengths.tolist() == [2, 5, 2]
    assert report.splits[0].label_counts == {"b": 1, "e": 1, "c": 1}
    page = " ".join(report.render().split())
    assert "1 of 2 (50.0 %) test texts also occur in train (such as test.txt:2 = train.txt:3)" in page
    assert "words: median 95 % 99 % longest cut at 3" in page


def test_the_report_knows_what_was_skipped_even_from_the_cache(tmp_path: Path) -> None:
    files = three_files(tmp_path, ["a", " ", "b"], ["v"], ["t"])
    for _ in range(2):
        data = ready(Words(**files, reading=ReadingConfig(empty="skip")))
        assert [split.notes.num_empty_skipped for split in data.report().splits] == [1, 0, 0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(min_size=1).filter(lambda text: not {"|", "e"} & set(text)), min_size=1, max_size=5, unique=True)
)
def test_every_text_comes_out_as_it_was_read(tmp_path: Path, rows: list[str]) -> None:
    files = three_files(tmp_path, [], ["v"], ["t"])
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    data = ready(Words(**{**files, "path": str(path)}, reading=ReadingConfig(empty="keep")))
    assert texts(data, "train") == rows


def test_half_a_character_is_kept_as_well(tmp_path: Path) -> None:
    files = three_files(tmp_path, [], ["v"], ["t"])
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "broken \\ud83d emoji"}\n', encoding="utf-8")
    data = ready(Words(**{**files, "path": str(path)}))
    assert texts(data, "train") == ["broken \ud83d emoji"]
    assert data.facts() == {"vocabulary": ["broken", "\ud83d", "emoji"]}


def test_the_cache_folder_holds_no_trace_of_the_examples_that_waited(tmp_path: Path) -> None:
    data = ready(Words(**three_files(tmp_path, ["a"], ["b"], ["no trace"])))
    folder = data.rows("train").folder
    assert sorted(os.listdir(folder)) == ["about.json", "meta.json", "test", "train", "validation"]


def test_training_batches_follow_the_order_seed_and_evaluation_is_not_shuffled(tmp_path: Path) -> None:
    files = three_files(tmp_path, sentences(40), sentences(10), sentences(9))

    def order(seed: int, split: Split) -> list[list[int]]:
        data = Words(**files)
        data.order_seed = seed
        ready(data)
        loaders = {"train": data.train_dataloader, "validation": data.val_dataloader, "test": data.test_dataloader}
        return [batch["id"] for batch in loaders[split]()]

    assert order(0, "train") == order(0, "train") != order(1, "train")
    assert sorted(number for batch in order(0, "train") for number in batch) == list(range(40))
    assert order(0, "validation") == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert order(1, "test") == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_each_process_is_dealt_its_own_rows(tmp_path: Path) -> None:
    data = ready(Words(**three_files(tmp_path, ["a"], ["b"], sentences(5))))
    dealt = []
    for rank in range(2):
        data.trainer = cast(pl.Trainer, SimpleNamespace(global_rank=rank, world_size=2))
        dealt.append([[] if batch["is_filler"] else batch["id"] for batch in data.test_dataloader()])
    assert dealt == [[[0], [2], [4]], [[1], [3], []]]


def test_texts_to_predict_need_the_facts_of_a_trained_module_and_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    data = Words(lines(tmp_path, "new.txt", "b a", "b a"), split=SplitConfig(drop_repeats=True))
    data.adopt({"vocabulary": ["a", "b"]})
    data.setup("predict")
    assert texts(data, "predict") == ["b a", "b a"]  # each line gets its answer
    assert [batch["input_ids"].tolist() for batch in data.predict_dataloader()] == [[[2, 1], [2, 1]]]
    assert not (tmp_path / "cache").exists()


class Silent(pl.LightningModule):
    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        answer: torch.Tensor = batch["input_ids"]
        return answer


def test_lightning_predicts_from_texts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    data = Words(lines(tmp_path, "new.txt", "a", "b b"))
    data.adopt({"vocabulary": ["a", "b"]})
    answers = quiet_trainer().predict(Silent(), datamodule=data)
    assert answers is not None
    assert [cast(torch.Tensor, answer).tolist() for answer in answers] == [[[1, 0], [2, 2]]]
    assert not (tmp_path / "cache").exists()
