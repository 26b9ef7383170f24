"""`lightrail explain`: the page, the numbers beside it, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightrail.lightning_modules.explaining.explanation import Alignment, AttentionHeads, Attribution
from lightrail.project.figures.explanations import ExplainedText, as_page
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
    assert attribution["tokens"] == heads["rows"] == heads["columns"] == ["好", "bad", "day"]
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
        (["--text=a", "--target=b"], "--target is for models that write any text"),
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


def test_pinyin_is_explained(fitted_pinyin: Fitted, tmp_path: Path) -> None:
    store = f"--tracking.uri={fitted_pinyin.store}"
    (own,) = explained(tmp_path / "page.html", fitted_pinyin.run_id, store, "--text=shi xyz hao")
    assert own["text"] == "shi xyz hao"
    attribution, *_, heads = own["explanations"]
    assert attribution["tokens"] == heads["rows"] == ["shi", "xyz", "hao"]
    outcome = lightrail("explain", fitted_pinyin.run_id, store, "--text=ni", "--text_pair=hao")
    assert outcome.status == 2
    assert "--text_pair is for models that read two texts at once" in outcome.err


def test_a_pair_of_texts_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"--tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    rows = "".join(f"{word} day\t{word} night\t{label}\n" for label in "+-" for word in ("good", "bad", "big"))
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"text\tother\tlabel\n{rows}", "utf-8")
    data = [
        "--model=TextClassifier",
        "--model.encoder.width=8",
        "--model.encoder.depth=1",
        "--data=TextClassificationData",
        f"--data.path={tmp_path}/train.tsv",
        f"--data.validation_path={tmp_path}/validation.tsv",
        f"--data.test_path={tmp_path}/test.tsv",
        "--data.pair_column=other",
        "--data.tokenizer=words",
    ]
    run_id = lightrail("fit", *data, *FOUR_STEPS, *QUIET, store).run_id
    (own,) = explained(tmp_path / "page.html", run_id, store, "--text=good day", "--text_pair=big night")
    assert own["text"] == "good day ||| big night"
    assert own["explanations"][0]["tokens"] == ["good", "day", "[SEP]", "big", "night"]
    for arguments, message in (
        (["--text=a"], "the model reads two texts at once (text, other), and explain was given one"),
        (["--text=a", "--text=b", "--text_pair=c"], "--text was given 2 times, and --text_pair 1 times"),
        (["--text=a", "--text_pair= "], "--text_pair number 1 is blank"),
    ):
        outcome = lightrail("explain", run_id, store, *arguments)
        assert outcome.status == 2
        assert message in outcome.err


def test_the_page_says_what_is_not_to_be_relied_on_and_tells_signs_without_colours() -> None:
    about = {"title": "<T>", "tokens": ["<b>", "书"], "baseline": "zeros", "num_steps": 200, "baseline_score": 0.0}
    good = Attribution(**about, values=[1.5, -0.5], score=1.0)  # type: ignore[arg-type]
    bad = Attribution(**about, values=[1.5, -0.5], score=9.0)  # type: ignore[arg-type]
    page = as_page("run", [ExplainedText("a", [good])], "<lead>")
    assert "Not to be relied on" not in page
    assert "&lt;b&gt;</b><small>+1.50" in page
    assert "书</b><small>-0.50" in page
    assert "<T>" not in page
    assert "Not to be relied on: the parts miss the difference of the scores by more than 5 %" in as_page(
        "run", [ExplainedText("a", [bad])], ""
    )


def test_maps_name_their_tokens_and_largest_weights() -> None:
    alignment = Alignment(title="A", rows=["x"], columns=["a", "b"], weights=[[0.96, 0.04]])
    heads = AttentionHeads(title="H", rows=["a", "b"], columns=["a", "b"], layers=[[[[0.2, 0.8], [1.0, 0.0]]]])
    page = as_page("run", [ExplainedText("a", [alignment, heads])], "")
    assert '<td class=most style="--size:0.96" title="x → a: 0.9600">.96</td>' in page
    assert 'title="x → b: 0.0400">·</td>' in page
    assert "<figcaption>head 1: b → a 1.00</figcaption>" in page
    assert page.count("<path") == 2
    shifted = AttentionHeads(title="H", rows=["a", "b"], columns=["<start>", "a"], layers=[[[[1.0, 0.0], [0.3, 0.7]]]])
    page = as_page("run", [ExplainedText("a", [shifted])], "")
    assert "<figcaption>head 1: b → a 0.70</figcaption>" in page
