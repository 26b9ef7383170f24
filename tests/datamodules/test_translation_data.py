"""Pairs of texts: from tables, from parallel files, and with the tokens that networks expect around them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lightrail.datamodules.base import SplitConfig
from lightrail.datamodules.batches.batching import BatchConfig
from lightrail.datamodules.batches.blocks import NO_TARGET
from lightrail.datamodules.translation import TranslationData
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from tests.support.pretrained_seq2seq import write_seq2seq

PAIRS = [("a cat", "eine Katze"), ("a dog", "ein Hund"), ("the cat sees", "die Katze sieht"), ("dogs", "Hunde")] * 5
THIRDS = SplitConfig(validation_fraction=0.2, test_fraction=0.2)


def data_of(path: Path | str, **settings: Any) -> TranslationData:
    data = TranslationData(str(path), **{"tokenizer": "characters", "min_count": 1, "split": THIRDS, **settings})
    data.setup("fit")
    return data


def table(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def texts(data: TranslationData) -> set[tuple[str, str]]:
    splits = (data.rows("train"), data.rows("validation"), data.rows("test"))
    rows = [rows.row(number) for rows in splits for number in range(len(rows))]
    return {(str(row["text"]), str(row["target"])) for row in rows}


def test_the_same_pairs_are_read_from_every_form(tmp_path: Path) -> None:
    columns = {"source_column": "en", "target_column": "de"}
    flat = table(tmp_path / "flat.jsonl", [{"en": source, "de": target} for source, target in PAIRS])
    nested = table(tmp_path / "hub.jsonl", [{"translation": {"en": one, "de": other}} for one, other in PAIRS])
    tsv = tmp_path / "pairs.tsv"
    tsv.write_text("de\ten\n" + "".join(f"{target}\t{source}\n" for source, target in PAIRS), "utf-8")
    (tmp_path / "text.en").write_text("".join(f"{source}\n" for source, _ in PAIRS), "utf-8")
    with gzip.open(tmp_path / "text.de.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(f"{target}\n" for _, target in PAIRS)
    hub = {"source_column": "translation.en", "target_column": "translation.de"}
    found = [texts(data_of(path, **columns)) for path in (flat, tsv, tmp_path / "text")]
    assert [*found, texts(data_of(nested, **hub))] == [set(PAIRS)] * 4


def test_parallel_files_are_part_of_the_digest_both(tmp_path: Path) -> None:
    for name, side in (("t.en", 0), ("t.de", 1)):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS), "utf-8")
    columns = {"source_column": "en", "target_column": "de"}
    before = data_of(tmp_path / "t", **columns).summaries()[0].digest
    (tmp_path / "t.de").write_text("".join(f"{pair[1]}!\n" for pair in PAIRS), "utf-8")
    assert data_of(tmp_path / "t", **columns).summaries()[0].digest != before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("ein\nzwei\n", r"t\.de ends after 2 lines, and .*t\.en has more"),
        ("ein\n\ndrei\n", r"t\.en:2: an empty cell|t\.en:2: .*empty"),
    ],
)
def test_parallel_files_that_do_not_fit_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "t.en").write_text("one\ntwo\nthree\n", "utf-8")
    (tmp_path / "t.de").write_text(lines, "utf-8")
    with pytest.raises(DataError, match=message):
        data_of(tmp_path / "t", source_column="en", target_column="de")


def test_without_the_second_file_the_first_is_no_parallel_text(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("one\n", "utf-8")
    with pytest.raises(DataError, match="no such file"):
        data_of(tmp_path / "t", source_column="en", target_column="de")


def test_one_tokenizer_serves_both_sides_unless_each_has_its_own(tmp_path: Path) -> None:
    path = table(tmp_path / "pairs.jsonl", [{"source": one, "target": other} for one, other in PAIRS])
    shared, own = data_of(path).facts(), data_of(path, target_tokenizer="characters").facts()
    assert shared["source"]["tokenizer"] == shared["target"]["tokenizer"]
    sides = [LanguageTokenizer.from_facts(own[side]["tokenizer"]) for side in ("source", "target")]
    assert "K" not in sides[0].token_ids()
    assert "K" in sides[1].token_ids()
    assert "g" not in sides[1].token_ids()


def test_a_batch_has_padding_that_is_no_target_and_text_that_decodes(tmp_path: Path) -> None:
    path = table(tmp_path / "pairs.jsonl", [{"source": one, "target": other} for one, other in PAIRS])
    data = data_of(path, source_prefix="say: ")
    rows = [{**data.rows("train").row(number), "id": number} for number in range(4)]
    batch = data.collate(rows)
    tokenizer = LanguageTokenizer.from_facts(data.facts()["target"]["tokenizer"])
    for number, row in enumerate(rows):
        source = batch["input_ids"][number][batch["attention_mask"][number]].tolist()
        target = batch["labels"][number][batch["labels"][number] != NO_TARGET].tolist()
        assert (tokenizer.decode(source), tokenizer.decode(target)) == (f"say: {row['text']}", row["target"])
        assert source[-1] == target[-1] == tokenizer.end_id
    assert batch["num_targets"] == int((batch["labels"] != NO_TARGET).sum())


def test_a_target_that_is_cut_has_no_end_and_the_cut_is_reported(tmp_path: Path) -> None:
    path = table(tmp_path / "pairs.jsonl", [{"source": one, "target": other} for one, other in PAIRS])
    data = data_of(path, max_length=9)
    rows = data.rows("train")
    row = rows.row(int((rows.values("num_target") > 9).argmax()))
    tokenizer = LanguageTokenizer.from_facts(data.facts()["target"]["tokenizer"])
    labels: Any = row["labels"]
    assert len(labels) == 9
    assert tokenizer.end_id not in labels
    assert "targets are longer than 9 tokens and are cut" in data.describe(data.rows("train"))


def test_batches_are_limited_by_the_tokens_of_both_sides(tmp_path: Path) -> None:
    rows = [
        {"source": f"{number}" + "a" * (number % 7), "target": "b" * (1 + 3 * number % 20)} for number in range(120)
    ]
    data = data_of(table(tmp_path / "pairs.jsonl", rows), batch=BatchConfig(size=None, max_tokens=100))
    for batch in data.train_dataloader():
        longest = batch["input_ids"].shape[1] + batch["labels"].shape[1]
        assert len(batch["id"]) == 1 or len(batch["id"]) * longest <= 100


@pytest.mark.parametrize(
    ("name", "source", "target"), [("t5", [[], [1]], [[], [1], []]), ("bart", [[3], [1]], [[3], [1], []])]
)
def test_a_pretrained_tokenizer_puts_its_own_tokens_around_texts(
    tmp_path: Path, name: str, source: list[list[int]], target: list[list[int]]
) -> None:
    folder = write_seq2seq(tmp_path / name, name, [text for pair in PAIRS for text in pair])
    path = table(tmp_path / "pairs.jsonl", [{"source": one, "target": other} for one, other in PAIRS])
    facts = data_of(path, tokenizer=str(folder)).facts()
    assert (facts["source"]["frame"], facts["target"]["frame"]) == (source, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_column": "x", "target_column": "x"}, "are both x"),
        ({"source_language": "en_XX"}, "is for multilingual tokenizers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = table(tmp_path / "pairs.jsonl", [{"source": one, "target": other} for one, other in PAIRS])
    with pytest.raises(ConfigError, match=message):
        data_of(path, **settings)


def test_an_entry_that_a_row_lacks_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a"}}]
    path = table(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: the column translation has no entry de"):
        data_of(path, source_column="translation.en", target_column="translation.de")
