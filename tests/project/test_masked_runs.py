"""A run of a masked language model: checked, predicted with, explained, and taken up by a classifier and a tagger."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import FOUR_STEPS, QUIET, lightrail
from tests.support.tasks import masked_lm


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run and folder of a model of masked tokens and next sentences."""
    folder = tmp_path_factory.mktemp("masked")
    store = f"--tracking.uri=sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIGHTRAIL_CACHE", str(folder / "cache"))
        arguments = [*masked_lm.settings(folder, masked_lm.PAIRS), "--data.next_sentence=true"]
        outcome = lightrail("fit", *arguments, *FOUR_STEPS, *QUIET, store)
        assert outcome.status == 0, outcome.err
        assert set(outcome.metrics) >= {"test/loss"}
    return outcome.run_id, folder


def in_store(folder: Path) -> str:
    return f"--tracking.uri=sqlite:///{folder}/mlflow.db"


def test_masks_of_new_texts_are_filled(pretrained: tuple[str, Path], tmp_path: Path) -> None:
    run_id, folder = pretrained
    (tmp_path / "new.txt").write_text("a[MASK]aa。 b[MASK]\nccc\n", encoding="utf-8")
    outcome = lightrail("predict", run_id, f"--data.path={tmp_path}/new.txt", in_store(folder), *QUIET[:3])
    assert outcome.status == 0, outcome.err
    rows: list[dict[str, Any]] = [json.loads(line) for line in outcome.out.splitlines()]
    assert [len(row["fills"]) for row in rows] == [2, 0]
    assert [len(own) for own in rows[0]["fills"]] == [len(own) for own in rows[0]["probabilities"]] == [5, 5]
    assert rows[0]["prediction"] == "a{}aa。 b{}".format(*(own[0] for own in rows[0]["fills"]))
    assert (rows[1]["prediction"], rows[1]["score"]) == ("ccc", 1.0)
    assert not {"[MASK]", "[SEP]", ""} & {token for own in rows[0]["fills"] for token in own}
    table = lightrail(
        "predict",
        run_id,
        f"--data.path={tmp_path}/new.txt",
        in_store(folder),
        f"--output={tmp_path}/out.csv",
        *QUIET[:3],
    )
    assert table.status == 0, table.err
    assert '"[]"' in (tmp_path / "out.csv").read_text("utf-8")


def test_the_best_token_of_each_mask_is_explained(pretrained: tuple[str, Path], tmp_path: Path) -> None:
    run_id, folder = pretrained
    output = tmp_path / "page.html"
    arguments = ["explain", run_id, in_store(folder), f"--output={output}", "--device=cpu"]
    outcome = lightrail(*arguments, "--text=a[MASK]a", "--text=bb")
    assert outcome.status == 0, outcome.err
    texts = json.loads(output.with_name("page.html.json").read_text("utf-8"))["texts"]
    assert [[own["kind"] for own in text["explanations"]] for text in texts] == [["attribution", "heads"], ["heads"]]
    attribution = texts[0]["explanations"][0]
    assert attribution["tokens"] == ["a", "[MASK]", "a"]
    assert attribution["title"].startswith("Log probability of ")
    refused = lightrail(*arguments, "--text=a", "--label=x")
    assert "--label is for models with labels, and this one has none" in refused.err


def test_a_corpus_without_pairs_is_refused_by_check_and_fit_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    arguments = [*masked_lm.settings(tmp_path), "--data.next_sentence=true", *FOUR_STEPS, *QUIET]
    said = [lightrail(command, *arguments) for command in ("check", "fit")]
    assert [own.status for own in said] == [2, 2]
    for own in said:
        assert "none of 8 texts has two sentences, so that none follows one. Give texts of several" in own.err
    assert not (tmp_path / "mlruns").exists()
    good = lightrail("check", *masked_lm.settings(tmp_path), *FOUR_STEPS, *QUIET)
    assert good.status == 0, good.err


@pytest.mark.parametrize("task", ["TextClassifier", "EntityTagger"])
def test_a_run_starts_from_masked_tokens_and_says_what_was_new(
    pretrained: tuple[str, Path], tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, folder = pretrained
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    rows: dict[str, Any] = {"text": "aaab", "label": "+", "entities": [[0, 2, "X"]]}
    lines = [json.dumps({**rows, "text": text, "label": text[0]}) for text in masked_lm.TEXTS["test"]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    paths = [f"--data.{name}={tmp_path}/rows.jsonl" for name in ("path", "validation_path", "test_path")]
    network = ["--model.encoder=TransformerConfig", *(f"--model.encoder.{size}" for size in masked_lm.SIZES)]
    data = {"TextClassifier": "TextClassificationData", "EntityTagger": "EntityData"}[task]
    own = [f"--model={task}", f"--data={data}", *paths, "--data.min_count=1", "--data.split.drop_repeats=false"]
    started = lightrail("check", *own, *network, f"--model.init_from=runs:/{run_id}", in_store(folder), *QUIET[:3])
    assert started.status == 0, started.err
    (line,) = [line for line in started.out.splitlines() if line.startswith("init ")]
    assert "in part" not in line
    assert "new: head." in line
    assert "left: head.bias, head.hidden.weight" in line
