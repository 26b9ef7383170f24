"""Corpora are cut into shards, encoded by any number of processes, and kept through a kill."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrail.datamodules.base import ReadingConfig, Split, SplitConfig
from lightrail.datamodules.cache import cache_folder
from lightrail.datamodules.cache.building import split_of
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.corpus import encoding, shards
from lightrail.datamodules.corpus.encoding import run_jobs
from lightrail.datamodules.corpus.shards import CorpusReading, Document, Shard, read_documents, shards_of
from lightrail.datamodules.reading import ReadingNotes
from lightrail.project.basics.errors import DataError
from tests.support.children import SECONDS_TO_HANG
from tests.support.texts import SENTENCES, lines, ready, spelled

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
PLAIN = CorpusReading(
    document="line",
    text_column="text",
    encoding="utf-8",
    file_format="auto",
    quoting="auto",
    column_names=(),
    empty="refuse",
)


def documents_of(file: Path, **more: Any) -> list[Document]:
    reading = CorpusReading(**{**PLAIN.__dict__, **more})
    return [
        document
        for shard in shards_of(str(file), reading, ReadingNotes(), file.with_name("spool"))
        for document in read_documents(shard, reading, ReadingNotes())
    ]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)


@given(texts=st.lists(st.text(st.sampled_from("ab \t\r\n\n北"), max_size=12), max_size=8), limit=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_shards_hold_each_document_once_wherever_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], limit: int
) -> None:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    content = "\n".join(texts)
    file.write_bytes(content.encode())
    plain = content.replace("\r\n", "\n")
    whole = plain.split("\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", limit)
        by_line = documents_of(file, empty="skip")
        by_paragraph = documents_of(file, empty="skip", document="paragraph")
        by_file = documents_of(file, empty="skip", document="file")
    assert [(own.text, own.line) for own in by_line] == [
        (line, number) for number, line in enumerate(whole, 1) if line.strip()
    ]
    assert [own.text for own in by_paragraph] == paragraphs(whole)
    assert all(whole[own.line - 1] == own.text.split("\n")[0] for own in by_paragraph)
    assert "".join(own.text for own in by_file) == plain
    assert [own.is_start for own in by_file] == [number == 0 for number in range(len(by_file))]
    assert [own.is_end for own in by_file] == [number == len(by_file) - 1 for number in range(len(by_file))]


def paragraphs(whole: Sequence[str]) -> list[str]:
    found: list[list[str]] = [[]]
    for line in whole:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(own) for own in found if own]


def test_the_same_text_is_read_from_every_format(tmp_path: Path) -> None:
    texts = ["one", "two\ttabs", "北京", '"quoted, here"']
    (tmp_path / "plain.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "wide.txt").write_text("\n".join(texts), encoding="utf-16")
    (tmp_path / "chinese.txt").write_text("\n".join(texts), encoding="gb18030")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    records = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts)
    (tmp_path / "records.jsonl").write_text(records, encoding="utf-8")
    (tmp_path / "table.csv").write_text(
        "text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts), encoding="utf-8"
    )
    pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", row_group_size=3)
    encodings = {"wide.txt": "utf-16", "chinese.txt": "gb18030"}
    files = sorted(tmp_path.glob("*.*"))
    found = {file.name: documents_of(file, encoding=encodings.get(file.name, "utf-8")) for file in files}
    assert len(found) == 7
    for name, documents in found.items():
        assert [own.text for own in documents] == texts, name
        first = 2 if name == "table.csv" else 1
        assert [own.line for own in documents] == list(range(first, first + 4)), name


def test_a_file_that_is_one_document_is_read_in_pieces_that_share_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    monkeypatch.setattr("lightrail.datamodules.corpus.shards.CHARACTERS_PER_PIECE", 300)
    names = ["validation_path", "test_path"]
    path = lines(tmp_path, "train.txt", *SENTENCES)
    others: dict[str, Any] = {name: lines(tmp_path, f"{name}.txt", *SENTENCES[:100], name) for name in names}
    data = CausalLMData(path, **others, document="file", tokenizer="bytes", encoding_processes=1)
    ready(data)
    whole = "".join(f"{sentence}\n" for sentence in SENTENCES)
    pieces = spelled(data, "train")
    assert len(pieces) > 30
    assert pieces[0].startswith("|Sentence 0")
    assert pieces[-1].endswith("|")
    assert all(piece[0] == "\n" for piece in pieces[1:])  # the last token of the piece before
    assert pieces[0][1:] + "".join(piece[1:] for piece in pieces[1:]) == f"{whole}|"
    rows = data.rows("validation")
    assert rows.values("num_bytes").sum() == sum(len(f"{own}\n".encode()) for own in [*SENTENCES[:100], names[0]])


def test_documents_are_divided_by_their_text(tmp_path: Path, small_shards: None) -> None:
    split = SplitConfig(validation_fraction=0.2, test_fraction=0.1, seed=5)
    data = CausalLMData(lines(tmp_path, "all.txt", *SENTENCES), split=split, encoding_processes=1)
    ready(data)
    for name in SPLITS:
        wanted = [text for text in SENTENCES if split_of(text, 5, 0.2, 0.1) == name]
        assert spelled(data, name) == [f"|{text}|" for text in wanted]
    numbers = data.rows("validation").values("line")
    assert [SENTENCES[number - 1] for number in numbers] == [text[1:-1] for text in spelled(data, "validation")]
    row = data.rows("validation").row(0)
    text = spelled(data, "validation")[0][1:-1]
    assert np.sum(row["num_characters"]) == len(text)
    assert np.sum(row["num_bytes"]) == len(text.encode())
    assert "num_bytes" not in data.rows("train").columns


@pytest.mark.parametrize("tokenizer", ["characters", "subwords"])
def test_the_number_of_processes_and_the_name_of_the_file_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, tokenizer: str
) -> None:
    found = []
    for name, count in (("first.txt", 1), ("second.txt", 2)):
        monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / f"cache-{count}"))
        path = lines(tmp_path, name, *SENTENCES)
        data = CausalLMData(path, tokenizer=tokenizer, max_vocabulary=300, encoding_processes=count)
        ready(data)
        digests = [data.rows(split).digest for split in SPLITS]
        found.append([data.facts(), digests, [summary.digest for summary in data.summaries()]])
        assert len(list((tmp_path / f"cache-{count}").iterdir())) == 2  # the cache and its lock: no shards are left
    assert found[0] == found[1]


def test_the_digest_of_a_split_is_that_of_its_texts_whatever_the_tokenizer(tmp_path: Path) -> None:
    path = lines(tmp_path, "all.txt", *SENTENCES)
    other = lines(tmp_path, "other.txt", *(text.replace(" ", "  ") for text in SENTENCES))
    digests = [
        [summary.digest for summary in ready(CausalLMData(source, tokenizer=tokenizer)).summaries()]
        for source, tokenizer in ((path, "bytes"), (path, "characters"), (other, "bytes"))
    ]
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])  # the same texts to `split_of`, but other ones


KILLED = """
import os, signal, sys
from lightrail.datamodules.causal_lm import CausalLMData
from lightrail.datamodules.corpus import encoding, shards
shards.SHARD_BYTES = 1000
encode = encoding.encode_document
def encode_or_die(tokenizer, text, **more):
    if text.startswith("Sentence 150:"):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(tokenizer, text, **more)
encoding.encode_document = encode_or_die
CausalLMData(sys.argv[1], encoding_processes=1).prepare_data()
"""


def test_what_is_encoded_before_a_kill_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    path = lines(tmp_path, "all.txt", *SENTENCES)
    environment = {**os.environ, "LIGHTRAIL_CACHE": str(tmp_path / "cache")}
    killed = subprocess.run([sys.executable, "-c", KILLED, path], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = list((tmp_path / "cache").glob("*.shards/*/*/meta.json"))
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []
    encode = encoding._encode

    def counted(job: encoding.ShardJob, *rest: Any) -> None:
        made.append(job.folder)
        encode(job, *rest)

    monkeypatch.setattr(encoding, "_encode", counted)
    data = ready(CausalLMData(path, encoding_processes=1))
    num_made = len(made)
    assert min(len(finished), num_made) >= 4
    assert not {own.parent for own in finished} & set(made)
    assert not list((tmp_path / "cache").glob("*.shards"))
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "another"))
    undisturbed = ready(CausalLMData(path, encoding_processes=1))
    assert len(made) - num_made == len(finished) + num_made
    for split in SPLITS:
        assert data.rows(split).digest == undisturbed.rows(split).digest


def test_a_container_with_one_core_encodes_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path, **_: object) -> str:
        assert str(file) == "/sys/fs/cgroup/cpu.max"
        return "100000 100000"

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(Path, "read_text", read)
    found = run_jobs(_own_process, [1, 2, 3], None, num_processes=None, sizes=[1, 1, 1], title="counting")
    assert set(found) == {os.getpid()}


def _own_process(_: int) -> int:
    return os.getpid()


WAITING = """
import sys
from lightrail.datamodules.corpus.encoding import run_jobs
if __name__ == "__main__":
    import time
    list(run_jobs(time.sleep, [3600, 3600], None, num_processes=2, sizes=[1, 1], title="waiting"))
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(encoding.__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as process:
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + SECONDS_TO_HANG
        while sum("spawn_main" in " ".join(own.cmdline()) for own in workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            workers = psutil.Process(process.pid).children(recursive=True)
        time.sleep(1)  # until they watch
        process.kill()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=SECONDS_TO_HANG)
    assert not alive


def test_repeats_are_dropped_from_train_first(tmp_path: Path, small_shards: None) -> None:
    path = lines(tmp_path, "train.txt", *SENTENCES, *SENTENCES[:50])
    test = lines(tmp_path, "test.txt", *SENTENCES[100:150], SENTENCES[120])
    split = SplitConfig(validation_fraction=0.2, drop_repeats=True)
    data = ready(CausalLMData(path, test_path=test, split=split, encoding_processes=1))
    found = Counter(text for name in SPLITS for text in spelled(data, name))
    assert found == Counter(f"|{text}|" for text in SENTENCES)
    assert spelled(data, "test") == [f"|{text}|" for text in SENTENCES[100:150]]
    kept = CausalLMData(path, test_path=test, split=SplitConfig(validation_fraction=0.2), encoding_processes=1)
    assert sum(len(ready(kept).rows(name)) for name in SPLITS) == 401


def test_a_folder_and_a_pattern_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, part in (("b.txt", SENTENCES[:50]), ("er/c.txt", SENTENCES[50:150]), ("a.txt", SENTENCES[150:])):
        lines(tmp_path / "deep", name, *part)
    (tmp_path / "deep" / "notes.md").write_text("no text of ours")
    order = SENTENCES[150:] + SENTENCES[:150]
    folder = ready(CausalLMData(str(tmp_path / "deep")))
    pattern = ready(CausalLMData(str(tmp_path / "deep" / "**" / "*.txt")))
    wanted = [text for text in order if split_of(text, 0, 0.1, 0.1) == "train"]
    assert [text[1:-1] for text in spelled(folder, "train")] == wanted
    assert folder.rows("train").digest == pattern.rows("train").digest
    row = folder.rows("train").row(len(wanted) - 1)
    assert folder._about["train"]["files"][row["file"]].endswith("c.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", r"empty.txt is empty"),
        ("blank.txt", b"\n \n\n", r"blank.txt: all texts are empty"),
        (
            "bytes.txt",
            b"good line\n" * 150 + b"bad \xe4 line\n",
            r"bytes.txt:151: byte 5 of the line \(0xe4\) is not utf-8",
        ),
        ("nul.txt", b"good line\n" * 150 + b"bad \0 line\n", r"nul.txt:151: NUL byte"),
        ("broken.jsonl", b'{"text": "a b"}\n' * 150 + b"{oops\n", r"broken.jsonl:151: invalid JSON"),
        ("other.jsonl", b'{"txt": "a b"}\n', r"other.jsonl:1: no column 'text'. .* Set data.text_column=txt"),
        ("hole.jsonl", b'{"text": "a b"}\n' * 150 + b'{"text": " "}\n', r"hole.jsonl:151: 'text' is empty"),
        ("list.jsonl", b'{"text": ["a", "b"]}\n', r"list.jsonl:1: column 'text' holds a list of 2"),
        ("false.parquet", b"no parquet", r"false.parquet: unreadable Parquet"),
        ("one.txt", b"a single document\n", r"one.txt: no examples"),
        ("page.md", b"text", r"page.md: the ending '.md' is no known format"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, small_shards: None, name: str, content: bytes, message: str, count: int
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        CausalLMData(str(tmp_path / name), encoding_processes=count).prepare_data()
    assert not list(cache_folder().glob("*.shards"))


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no texts.*found: picture.png"):
        CausalLMData(str(tmp_path)).prepare_data()
    with pytest.raises(DataError, match=r"holds no texts\. No file matches the pattern"):
        CausalLMData(str(tmp_path / "*.txt")).prepare_data()


def test_a_line_too_long_to_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 10)
    monkeypatch.setattr(shards, "MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"long.txt:2: a line after this line has"):
        documents_of(Path(lines(tmp_path, "long.txt", "a" * 20, "b", "c" * 200, "d")))
    with pytest.raises(DataError, match=r"para.txt:1: a paragraph after this line has"):
        documents_of(Path(lines(tmp_path, "para.txt", *["words"] * 50)), document="paragraph")


def test_empty_rows_are_skipped_and_counted(tmp_path: Path, small_shards: None) -> None:
    records = [{"text": text if number % 10 else " "} for number, text in enumerate(SENTENCES)]
    path = lines(tmp_path, "rows.jsonl", *map(json.dumps, records))
    data = ready(CausalLMData(path, reading=ReadingConfig(empty="skip"), encoding_processes=1))
    assert data._about["train"]["notes"]["train"]["num_empty_skipped"] == 30
    assert data._about["train"]["notes"]["train"]["num_rows"] == 270
    assert "30 rows" in data.report().render()


def test_a_shard_is_plain_values() -> None:
    assert {field.type for field in Shard.__dataclass_fields__.values()} <= {str, int, bool, shards.Form}
