"""What a shipped experiment and the length of a training come to where the user leaves them to the data."""

from pathlib import Path
from typing import Any

import pytest

from lightrail.project.configuration import parse
from lightrail.project.running import training_length
from lightrail.project.running.training_length import num_epochs
from tests.support.running import QUIET, lightrail, runs_in

ENGLISH = ["where is the book", "who wrote it"]
TINY = [
    "--model=TextClassifier",
    "--model.encoder.width=16",
    "--model.encoder.depth=1",
    "--data=TextClassificationData",
]


def table(folder: Path, texts: list[str]) -> str:
    file = folder / "texts.csv"
    file.write_text("text,label\n" + "".join(f'"{text}",{number % 2}\n' for number, text in enumerate(texts)), "utf-8")
    return f"--data.path={file}"


def chosen(*arguments: str) -> dict[str, Any]:
    configuration = parse(["--config=text_classification", *arguments])
    model, data = (configuration.values[section]["init_args"] for section in ("model", "data"))
    return {
        "network": model["encoder"]["class_path"].rpartition(".")[2],
        "pooling": model["pooling"],
        "tokenizer": data["tokenizer"],
        "is_told": bool(configuration.chosen),
    }


AS_SHIPPED = {"network": "TransformerConfig", "pooling": "mean", "tokenizer": "characters", "is_told": False}
OF_WORDS = {"network": "TextCnnConfig", "pooling": "max", "tokenizer": "words", "is_told": True}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (ENGLISH, OF_WORDS),
        (["где эта книга", "кто её написал"], OF_WORDS),
        (["이 책은 어디에 있습니까", "누가 썼습니까"], OF_WORDS),
        (["这本书在哪里", "谁写的"], AS_SHIPPED),
        (["この本はどこですか", "だれが書きましたか"], AS_SHIPPED),
        (["หนังสืออยู่ที่ไหน", "ใครเขียน"], AS_SHIPPED),
        (["我的 ThinkPad 的键盘很好用", "iPhone 很贵"], AS_SHIPPED),
        (["ACGTTGCA", "TTGACCAG"], AS_SHIPPED),
    ],
    ids=["english", "russian", "korean", "chinese", "japanese", "thai", "mixed", "without spaces"],
)
def test_the_writing_of_the_texts_decides_how_they_are_read(
    tmp_path: Path, texts: list[str], expected: dict[str, Any]
) -> None:
    assert chosen(table(tmp_path, texts)) == expected


def test_what_the_user_sets_takes_precedence(tmp_path: Path) -> None:
    path = table(tmp_path, ENGLISH)
    assert chosen(path, "--model.pooling=mean", "--model.encoder=LstmConfig") == {
        **OF_WORDS,
        "pooling": "mean",
        "network": "LstmConfig",
    }
    assert chosen(path, "--data.tokenizer=subwords") == {**AS_SHIPPED, "tokenizer": "subwords"}
    assert chosen(path, "--data.tokenizer=characters") == AS_SHIPPED


def test_texts_without_labels_decide_as_well(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("\n".join(ENGLISH), "utf-8")
    assert chosen(f"--data.path={tmp_path}/new.txt") == OF_WORDS


@pytest.mark.parametrize("path", ["-", "missing.csv", "embedded:no_such_set"])
def test_a_source_that_cannot_be_read_twice_or_at_all_decides_nothing(path: str) -> None:
    assert chosen(f"--data.path={path}") == AS_SHIPPED


def test_the_length_of_an_experiment_is_for_its_own_data(tmp_path: Path) -> None:
    def length(*arguments: str) -> int | None:
        found: int | None = parse(["--config=text_classification", *arguments]).values["trainer"]["max_epochs"]
        return found

    assert length() == 2
    assert [length(table(tmp_path, texts)) for texts in (ENGLISH, ["谁写的", "在哪里"])] == [None, None]
    assert length(table(tmp_path, ENGLISH), "--trainer.max_epochs=5") == 5


@pytest.mark.parametrize(
    ("num_examples", "expected"), [(10, 40), (4275, 12), (7776, 7), (27_000, 2), (50_001, 2), (10_000_000, 2)]
)
def test_the_number_of_epochs_depends_on_the_number_of_examples(num_examples: int, expected: int) -> None:
    assert num_epochs(parse(["--config=text_classification"]), num_examples) == expected


@pytest.mark.parametrize(
    ("experiment", "network"),
    [
        ("text_classification", "encoder=PretrainedConfig"),
        ("causal_lm", "decoder=PretrainedDecoderConfig"),
        ("translation", "network=PretrainedSeq2SeqConfig"),
    ],
)
def test_a_pretrained_network_is_fine_tuned_for_few_epochs(experiment: str, network: str) -> None:
    part = network.partition("=")[0]
    configuration = parse([f"--config={experiment}", f"--model.{network}", f"--model.{part}.checkpoint=x"])
    assert num_epochs(configuration, 100) == 3


def test_a_run_stores_the_length_that_was_chosen(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_length, "MOST", 3)
    outcome = lightrail(
        "fit",
        *TINY,
        *QUIET,
        table(tmp_path, 10 * ["good", "bad"]),
        *_splits(tmp_path),
        "--trainer.log_every_n_steps=1",
        f"--tracking.uri={store}",
    )
    assert outcome.status == 0, outcome.err
    (run,) = runs_in(store)
    assert run.params["trainer.max_epochs"] == "3"
    assert run.tags["lightrail.chosen"] == "trainer.max_epochs 3 for 20 training examples"
    assert run.checkpoint("last")["configuration"]["trainer"]["max_epochs"] == 3


def test_the_check_says_what_is_chosen_and_what_would_be_better(tmp_path: Path) -> None:
    arguments = [*TINY, *QUIET, table(tmp_path, 10 * ENGLISH), *_splits(tmp_path)]
    shown = lightrail("check", *arguments).out
    assert "chosen       trainer.max_epochs 40 for 20 training examples" in shown
    assert "advice       data.tokenizer is characters, and there are 70 words and 0 characters of scripts" in shown
    shown = lightrail("check", *arguments, "--trainer.max_epochs=2", "--data.tokenizer=words").out
    assert "advice       40 examples in all are few for a network from scratch: set trainer.max_epochs to 40" in shown
    assert ("chosen" in shown, "data.tokenizer" in shown) == (False, False)


def _splits(folder: Path) -> list[str]:
    return [f"--data.{name}_path={folder}/texts.csv" for name in ("validation", "test")]
