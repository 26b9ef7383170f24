"""Texts for embeddings: pairs, halves of texts, single texts and scored pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightrail.datamodules.base import Split
from lightrail.datamodules.batches.batching import Batch, BatchConfig
from lightrail.datamodules.sentences import SentenceData
from lightrail.project.basics.errors import ConfigError, DataError

ROWS = [
    {"text": "a cat", "pair": "a small cat", "score": "4.5", "negative": "a dog"},
    {"text": "rain", "pair": "it rains today", "score": "3", "negative": "a cat"},
    {"text": "a dog runs fast", "pair": "a cat", "score": "0.25", "negative": "rain"},
]


def write(file: Path, rows: list[dict[str, str]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(file)


def data_of(folder: Path, rows: list[dict[str, str]] = ROWS, **settings: Any) -> SentenceData:
    path = write(folder / "train.jsonl", rows)
    others = {"validation_path": write(folder / "validation.jsonl", ROWS), "test_path": path}
    data = SentenceData(path, **{**others, "tokenizer": "words", "min_count": 1, **settings})
    data.setup("fit")
    return data


def batch_of(data: SentenceData, split: Split = "train", seed: tuple[int, int] = (0, 0)) -> Batch:
    rows = data.dataset(split)
    return data.collate(
        [{**rows.row(number), "id": number, "draw_seed": (*seed, number)} for number in range(len(rows))]
    )


def words(data: SentenceData, ids: torch.Tensor) -> str:
    vocabulary = ["", "?", *data.facts()["vocabulary"]]
    return " ".join(vocabulary[number] for number in ids.tolist() if number)


def test_a_batch_has_all_first_texts_then_their_pairs_then_hard_negatives(tmp_path: Path) -> None:
    data = data_of(tmp_path, negative_column="negative")
    batch = batch_of(data)
    assert [words(data, ids) for ids in batch["input_ids"]] == [
        *(row["text"] for row in ROWS),
        *(row["pair"] for row in ROWS),
        *(row["negative"] for row in ROWS),
    ]
    assert torch.equal(batch["attention_mask"], batch["input_ids"] != 0)
    assert batch["keys"].shape == (3, 3)
    # "a cat" is the text of one, the pair of another, and a hard negative.
    same = (batch["keys"] == batch["keys"][0, 0]).nonzero().tolist()
    assert same == [[0, 0], [1, 2], [2, 1]]
    assert (batch["pair"], batch["num_targets"]) == ([row["pair"] for row in ROWS], 3)


def test_scores_are_read_of_evaluation_pairs_alone_unless_they_are_learned(tmp_path: Path) -> None:
    unscored = [{"text": "a cat", "pair": "a small cat"}] * 2
    scored = str(tmp_path / "validation.jsonl")
    data = data_of(tmp_path, unscored, score_column="score", test_path=scored)
    assert "target" not in batch_of(data)
    assert batch_of(data, "validation")["target"].tolist() == [4.5, 3.0, 0.25]
    assert data.facts()["has_scores"]
    learned = data_of(tmp_path, learns="scores", score_column="score")
    assert batch_of(learned)["target"].tolist() == [4.5, 3.0, 0.25]


def test_a_single_text_is_its_own_pair_with_another_dropout(tmp_path: Path) -> None:
    data = data_of(tmp_path, learns="texts")
    batch = batch_of(data)
    assert torch.equal(batch["input_ids"][:3], batch["input_ids"][3:])
    assert len(set(batch["draws"].tolist())) == 6
    assert batch_of(data, "validation")["pair"] == [row["pair"] for row in ROWS]


def test_what_is_random_about_a_text_follows_from_seed_epoch_and_example(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    whole, row = batch_of(data)["draws"].view(2, 3), data.dataset("train").row(1)
    alone = data.collate([{**row, "id": 1, "draw_seed": (0, 0, 1)}])["draws"]
    assert alone.tolist() == whole[:, 1].tolist()
    for seed in ((0, 1), (1, 0)):
        assert not set(batch_of(data, seed=seed)["draws"].tolist()) & set(whole.flatten().tolist())


def test_a_text_is_divided_where_there_are_no_pairs(tmp_path: Path) -> None:
    texts = [{"text": "今天下雨。我们在家。"}, {"text": "one, two three"}, {"text": "x"}]
    path = write(tmp_path / "texts.jsonl", texts)
    data = SentenceData(
        path, validation_path=path, test_path=path, pair_column=None, tokenizer="characters", min_count=1
    )
    data.setup("fit")
    rows = [data.dataset("test").row(number) for number in range(3)]
    assert {(row["text"], row["pair"]) for row in rows} == {
        ("今天下雨。", "我们在家。"),
        ("one,", "two three"),
        ("x", "x"),
    }


def test_texts_alone_are_predicted_and_need_no_pairs(tmp_path: Path) -> None:
    facts = data_of(tmp_path).facts()
    data = SentenceData(write(tmp_path / "new.jsonl", [{"text": "a cat"}, {"text": "owls"}]), batch=BatchConfig(size=2))
    data.adopt(facts)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["input_ids"].shape == (2, 2)
    assert set(batch["text"]) == {"a cat", "owls"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learns": "scores"}, "data.score_column is null"),
        ({"learns": "texts", "test_path": None}, "data.learns is texts, and evaluation needs pairs, which data.path"),
        ({"score_column": "score", "test_path": None}, "evaluation needs scored pairs"),
        ({"negative_column": "negative", "learns": "texts"}, "data.negative_column is for pairs without scores"),
        ({"pair_column": "text"}, "the columns text, text are not all different"),
        ({"pair_column": None, "learns": "texts"}, "data.pair_column is null, which divides each text"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(tmp_path, **settings)


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_score_that_is_no_number_is_refused_with_its_line(tmp_path: Path, score: str) -> None:
    rows = [ROWS[0], {**ROWS[1], "score": score}]
    with pytest.raises(DataError, match=rf"train\.jsonl:2: score is '{score}', which is no number"):
        data_of(tmp_path, rows, learns="scores", score_column="score")
