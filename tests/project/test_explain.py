"""`lightrail explain`: the page, the numbers beside it, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightrail.lightning_modules.explaining.explanation import Alignment, AttentionHeads, Attribution
from lightrail.project.explaining.page import ExplainedText, as_page
from tests.support.running import FOUR_STEPS, QUIET, Fitted, lightrail
from tests.support.tasks import entities

SCRIPT = "so good <script>alert(1)</script>"


def explained(output: Path, *arguments: str) -> list[dict[str, Any]]:
    outcome = lightrail("explain", *arguments, f"--output={output}", "--device=cpu")
    assert outcome.status == 0, outcome.err
    texts: list[dict[str, Any]] = json.loads(output.with_name(f"{output.name}.json").read_text("utf-8"))["texts"]
    return texts


def test_a_label_is_explained_by_attributions_and_attention(fitted_classifier: Fitted, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    store = f"--tracking.uri={fitted_classifier.store}"
    texts = explained(output, fitted_classifier.run_id, store, f"--text={SCRIPT}", "--text=好 bad\nday", "--label=-")
    assert [own["text"] for own in texts] == [SCRIPT, "好 bad day"]
    assert [own["kind"] for own in texts[1]["explanations"]] == ["attribution", "heads"]
    attribution, heads = texts[1]["explanations"]
    assert attribution["tokens"] == heads["tokens"] == ["好", "bad", "day"]
    difference = attribution["score"] - attribution["baseline_score"]
    assert sum(attribution["values"]) == pytest.approx(difference, abs=attribution["error"] + 1e-9)
    page = output.read_text("utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "好" in page
    assert re.findall(r"<script|https?:|\bsrc=|@import|url\(", page) == []


def test_each_entity_that_is_found_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"--tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    steps = [*FOUR_STEPS, *QUIET, "--trainer.max_steps=40", "--model.optim.lr=0.02", store]
    run_id = lightrail("fit", *entities.settings(tmp_path), *steps).run_id
    (own,) = explained(tmp_path / "a.html", run_id, store, "--text=li wei lives in new york")
    titles = [each["title"] for each in own["explanations"]]
    assert "Score of the LOC new york" in titles
    (fewer,) = explained(tmp_path / "b.html", run_id, store, "--text=li wei lives in new york", "--label=ORG")
    assert len(fewer["explanations"]) < len(titles)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a text, and found none: give --text TEXT"),
        (["--text= "], "--text number 1 is blank"),
        (["--text=a", "--label=plus"], "--label 'plus' is none of the 2 labels of the model"),
        (["--text=a", "--target=b"], "--target is for models that write a text"),
        (["--text=a", "--device=tpu"], "--device is 'tpu'. Give cpu or gpu"),
        (["--text=a", "--output=/"], "is a folder. Name a file in it"),
        (["other", "--text=a"], "takes one run or checkpoint, found 2"),
    ],
)
def test_a_question_that_has_no_answer_is_refused(
    arguments: list[str], message: str, fitted_classifier: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = lightrail("explain", fitted_classifier.run_id, f"--tracking.uri={fitted_classifier.store}", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_explains_nothing_is_refused_with_those_that_do(fitted_pinyin: Fitted) -> None:
    outcome = lightrail("explain", fitted_pinyin.run_id, f"--tracking.uri={fitted_pinyin.store}", "--text=ni hao")
    assert outcome.status == 2
    assert "is a PinyinTagger, which explains no text. Name a run that classifies texts" in outcome.err


def test_the_page_says_what_is_not_to_be_relied_on_and_tells_signs_without_colours() -> None:
    about = {"title": "<T>", "tokens": ["<b>", "书"], "baseline": "zeros", "num_steps": 200, "baseline_score": 0.0}
    good = Attribution(**about, values=[1.5, -0.5], score=1.0)  # type: ignore[arg-type]
    bad = Attribution(**about, values=[1.5, -0.5], score=9.0)  # type: ignore[arg-type]
    page = as_page("run", [ExplainedText("a", [good])])
    assert "Not to be relied on" not in page
    assert "&lt;b&gt;</b><small>+1.50" in page
    assert "书</b><small>-0.50" in page
    assert "<T>" not in page
    assert "Not to be relied on: the parts miss the difference of the scores by more than 5 %" in as_page(
        "run", [ExplainedText("a", [bad])]
    )


def test_maps_name_their_tokens_and_largest_weights() -> None:
    alignment = Alignment(title="A", rows=["x"], columns=["a", "b"], weights=[[0.96, 0.04]])
    heads = AttentionHeads(title="H", tokens=["a", "b"], layers=[[[[0.2, 0.8], [1.0, 0.0]]]])
    page = as_page("run", [ExplainedText("a", [alignment, heads])])
    assert '<td class=most style="--size:0.96" title="x → a: 0.9600">.96</td>' in page
    assert 'title="x → b: 0.0400">·</td>' in page
    assert "<figcaption>head 1: b → a 1.00</figcaption>" in page
    assert page.count("<path") == 2
