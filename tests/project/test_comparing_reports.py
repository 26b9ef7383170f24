"""What a comparison says, in Markdown, HTML and JSON, of runs made up by the test."""

import base64
import json
import math
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pyarrow as pa
import pytest

from lightrail.lightning_modules.metrics.label_scores import MacroAuroc
from lightrail.lightning_modules.metrics.scores import MacroF1, Score, ShareEqual, WeightedMean
from lightrail.project.basics.errors import ConfigError
from lightrail.project.comparing.comparison import Comparison, as_json, compare, different_settings
from lightrail.project.comparing.entries import Entry, ScoredRun
from lightrail.project.comparing.markdown import as_markdown, number, probability, short_setting, short_value
from lightrail.project.comparing.page import as_html

pytestmark = pytest.mark.pictures

EVIL = "<script>alert('1')</script> | *a* [b](c) 中文"
SCORES: dict[str, Score] = {
    "loss": WeightedMean(column="loss", higher_is_better=False),
    "accuracy": ShareEqual(),
    "f1_macro": MacroF1(labels=("+", "-", EVIL)),
}
SQLITE = "sqlite:////somewhere/mlflow.db"


def scored_run(run_id: str, answers: str, losses: Sequence[float] | None = None) -> ScoredRun:
    """Of 12 texts, all of them `+`; `answers` has a sign for each."""
    values = losses or [0.1 if answer == "+" else 2.0 + place / 10 for place, answer in enumerate(answers)]
    table = pa.table(
        {
            "id": range(12),
            "text": [f"text {place} {EVIL}" for place in range(12)],
            "prediction": [EVIL if answer == "x" else answer for answer in answers],
            "score": pa.array([0.75] * 12, pa.float32()),
            "target": ["+"] * 12,
            "loss": pa.array(values, pa.float32()),
        }
    )
    return ScoredRun(run_id * 32, "name", "digest", table, SCORES, "accuracy")


def entry(run_id: str, name: str, *answers: str, **params: str) -> Entry:
    runs = [scored_run(f"{run_id}{place}"[: len(answers)], own) for place, own in enumerate(answers)]
    return Entry(run_id * 32, name, "7", params, runs, is_group=len(answers) > 1)


GOOD, BAD = "+" * 11 + "-", "+" * 3 + "-" * 8 + "x"


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    first, other = entry("a", EVIL, GOOD, lr="0.1", same="1"), entry("b", "other", BAD, same="1", note=EVIL)
    return compare([first, other], SQLITE)


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = markdown.partition(f"## {heading}")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


def test_markdown_holds_values_and_differences(comparison: Comparison) -> None:
    text = as_markdown(comparison)
    values, differences = rows_of(text, "Values"), rows_of(text, "Differences")
    assert [row[1] for row in values] == ["a" * 8, "b" * 8]
    assert values[0][2].startswith(f"{11 / 12:.4f} [")
    assert [row[0] for row in differences] == ["accuracy", "loss", "f1_macro"]
    accuracy = dict(
        zip(["metric", "run", "difference", "interval", "p", "corrected", "verdict"], differences[0], strict=True)
    )
    assert (accuracy["difference"], accuracy["p"], accuracy["run"]) == (f"{-8 / 12:+.4f}", "0.008", "other")
    assert accuracy["corrected"] == accuracy["p"], "the only test"
    assert accuracy["verdict"] == "different: worse"
    assert [row[4:] for row in differences[1:]] == [["", "", ""]] * 2, "no verdict on what nobody asked for"
    assert all(row[3].startswith("[") for row in differences)
    assert "Other metrics are not tested: name those that matter with --metric." in text


def test_metrics_that_are_named_are_all_tested_and_corrected_for() -> None:
    sides = [entry("a", "one", GOOD), entry("b", "other", BAD)]
    text = as_markdown(compare(sides, SQLITE, ["accuracy", "loss"]))
    assert [row[-1] for row in rows_of(text, "Differences")] == ["different: worse"] * 2
    assert rows_of(text, "Differences")[0][5] == "0.016"
    assert "with Holm's correction for 2 comparisons" in text
    assert "not tested" not in text


def test_the_verdict_knows_that_a_lower_loss_is_better() -> None:
    worse, better = entry("a", "one", BAD), entry("b", "other", GOOD)
    names = ["accuracy", "loss", "f1_macro"]
    rows = rows_of(as_markdown(compare([worse, better], SQLITE, names)), "Differences")
    assert [row[-1] for row in rows] == ["different: better"] * 3
    equal = rows_of(as_markdown(compare([worse, entry("b", "other", BAD)], SQLITE, names)), "Differences")
    assert [row[-1] for row in equal] == ["no difference shown"] * 3


def test_text_of_a_user_breaks_no_table_and_is_no_markup(comparison: Comparison) -> None:
    text = as_markdown(comparison)
    for heading, columns in (("Values", 5), ("Differences", 7), ("Examples", 5), ("Settings", 3)):
        assert {len(row) for row in rows_of(text, heading)} == {columns}
    assert "<script" not in re.sub(r"\\<", "", text)
    assert "\\[b\\](c)" in text


def test_examples_differ_most_in_loss_first_and_show_text_target_and_predictions(comparison: Comparison) -> None:
    rows = rows_of(as_markdown(comparison), "Examples")
    assert [row[0] for row in rows] == [str(number) for number in (10, 9, 8, 7, 6, 5, 4, 3, 11)]
    assert rows[0][1].startswith("text 10")
    assert rows[0][2:] == ["+", "✓ + (0.75)", "- (0.75)"]
    few = compare(comparison.entries, SQLITE, num_examples=2)
    assert len(few.examples) == 2
    assert "## Examples" not in as_markdown(compare(comparison.entries, SQLITE, num_examples=0))


def test_long_texts_are_cut() -> None:
    first, other = entry("a", "one", GOOD), entry("b", "other", BAD)
    long = pa.array(["word " * 200] * 12)
    for own in (first, other):
        run = own.runs[0]
        object.__setattr__(own, "runs", [replace(run, table=run.table.set_column(1, "text", long))])
    assert max(map(len, as_markdown(compare([first, other], SQLITE)).splitlines())) < 400


def test_settings_are_those_that_are_not_equal() -> None:
    params = [{"a.init_args.b": "1", "c": "2", "tracking.run_name": "x"}, {"a.init_args.b": "3", "c": "2", "d": "4"}]
    assert different_settings(params) == {"a.init_args.b": ["1", "3"], "d": [None, "4"]}
    assert short_setting("a.init_args.b.init_args.c") == "a.b.c"
    assert short_value("x.class_path", "one.two.Three") == "Three"
    assert short_value("x", None) == "–"


def test_the_link_names_runs_and_experiments(comparison: Comparison) -> None:
    address, _, query = comparison.link.partition("#/compare-runs?")
    assert not set(query) & set('[]" <>')
    found = urllib.parse.parse_qs(query)
    assert json.loads(found["runs"][0]) == ["a" * 32, "b" * 32]
    assert json.loads(found["experiments"][0]) == ["7"]
    assert address == "http://127.0.0.1:5000/"
    assert "after `lightrail ui`" in as_markdown(comparison)
    served = compare(comparison.entries, "http://me:secret@tracking.example:80")
    assert served.link.startswith("http://me:***@tracking.example:80/#/compare-runs?")
    assert "lightrail ui" not in as_markdown(served)


def test_a_group_is_one_entry_with_the_prediction_of_most_runs() -> None:
    group = entry("a", "group", GOOD, GOOD, GOOD[:5] + "-" + GOOD[6:])
    found = compare([group, entry("b", "single", BAD)], SQLITE)
    estimate = found.measured.estimates["accuracy"][0]
    assert estimate.value == pytest.approx((10 + 11 + 11) / 36)
    assert estimate.deviation == pytest.approx(math.sqrt(1 / 3) / 12)
    (answer, _) = next(example for example in found.examples if example.id == 5).answers
    assert (answer.text, answer.num_agreeing, answer.num_runs) == ("+", 2, 3)
    assert answer.loss == pytest.approx((0.1 + 0.1 + 2.5) / 3)
    text = as_markdown(found)
    assert "group (3 seeds)" in text
    assert f"{32 / 36:.4f} ± {math.sqrt(1 / 3) / 12:.4f}" in text
    assert "single: a single run has no spread between seeds" in text
    assert "Student's t" in text
    assert "McNemar" not in text


def test_runs_of_one_name_are_distinguished_by_their_ids() -> None:
    text = as_markdown(compare([entry("a", "same", GOOD), entry("b", "same", BAD)], SQLITE))
    assert text.startswith("# same (aaaaaaaa) / same (bbbbbbbb)")


class Tags(HTMLParser):
    """Collects tags, their addresses, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_needs_nothing_else_and_runs_nothing(comparison: Comparison) -> None:
    page = as_html(comparison)
    found = Tags(page)
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert "@import" not in page
    assert "url(" not in page
    others = [address for address in found.addresses if not address.startswith("data:image/png;base64,")]
    assert others == [comparison.link]
    assert EVIL in " ".join(found.text.split())


def test_html_has_the_content_of_markdown(comparison: Comparison) -> None:
    text = Tags(as_html(comparison)).text
    for own in comparison.measured.differences:
        assert number(own.value, is_signed=True) in text
        assert not own.test or probability(own.corrected_p) in text
    assert comparison.method in text
    assert "different: worse" in text
    assert "text 10" in text


def test_the_figure_is_drawn_for_light_and_for_dark(comparison: Comparison, tmp_path: Path) -> None:
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", as_html(comparison))
    assert len(pictures) == 2
    corners = []
    for place, picture in enumerate(pictures):
        (tmp_path / f"{place}.png").write_bytes(base64.b64decode(picture))
        image = matplotlib.image.imread(tmp_path / f"{place}.png")
        assert len({tuple(pixel) for pixel in image.reshape(-1, image.shape[-1])[::97].tolist()}) > 5
        corners.append(image[0, 0, :3].mean())
    assert corners[0] > 0.95
    assert corners[1] < 0.15


def test_a_figure_with_chinese_names_is_text_that_a_browser_draws() -> None:
    page = as_html(compare([entry("a", "one", GOOD), entry("b", "对照", BAD)], SQLITE))
    figures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert [">对照<" in base64.b64decode(figure).decode() for figure in figures] == [True, True]


def test_wrong_characters_are_marked_and_right_predictions_are_not() -> None:
    first, other = entry("a", "one", GOOD), entry("b", "other", BAD)
    for own, answer in ((first, "我们都是学生"), (other, "我门都是雪生")):
        table = own.runs[0].table
        for column, text in (("prediction", answer), ("target", "我们都是学生")):
            table = table.set_column(table.column_names.index(column), column, pa.array([text] * 12))
        object.__setattr__(own, "runs", [replace(own.runs[0], table=table, scores={"accuracy": ShareEqual()})])
    page = as_html(compare([first, other], SQLITE))
    assert "我<mark>门</mark>都是<mark>雪</mark>生" in page
    assert '<span class="right">我们都是学生</span>' in page


def test_json_holds_every_number_in_full(comparison: Comparison) -> None:
    found: dict[str, Any] = json.loads(as_json(comparison))
    assert found["entries"][0]["metrics"]["accuracy"]["value"] == 11 / 12
    assert found["entries"][1]["name"] == "other"
    (own,) = [difference for difference in found["differences"] if difference["metric"] == "accuracy"]
    assert own["value"] == 3 / 12 - 11 / 12
    assert own["p"] == pytest.approx(2 / 2**8)
    assert (own["run_id"], own["baseline"], own["verdict"]) == ("b" * 32, "a" * 32, "different")
    assert found["main_metric"] == "accuracy"
    assert found["num_examples"] == 12
    assert found["settings"]["lr"] == ["0.1", None]
    assert found["examples"][0]["id"] == 10


def test_undefined_values_are_named_and_are_null_in_json() -> None:
    spoiled = Entry("b" * 32, "other", "7", {}, [scored_run("b", BAD, [math.nan] * 12)], is_group=False)
    found = compare([entry("a", "one", GOOD), spoiled], SQLITE, ["accuracy", "loss", "f1_macro"])
    rows = rows_of(as_markdown(found), "Differences")
    assert [row[-1] for row in rows] == ["different: worse", "undefined", "different: worse"]
    plain = json.loads(as_json(found))
    assert plain["entries"][1]["metrics"]["loss"]["value"] is None
    assert "undefined" in Tags(as_html(found)).text


def with_ranking(own: Entry) -> Entry:
    """The same run with probabilities of the two signs, and the area under their curve as a further metric."""
    (run,) = own.runs
    targets = ["+", "-"] * 6
    sure = [[0.1 * place / 12, 1.0] if answer == "+" else [0.9, 0.2] for place, answer in enumerate(targets)]
    table = run.table.set_column(4, "target", pa.array(targets)).append_column("probabilities", pa.array(sure))
    scores = {"auroc": MacroAuroc(labels=("-", "+")), "accuracy": ShareEqual()}
    return replace(own, runs=[replace(run, table=table, scores=scores, main_metric="auroc")])


def test_a_metric_that_is_no_sum_is_shown_without_interval_and_test() -> None:
    found = compare([with_ranking(entry("a", "one", GOOD)), with_ranking(entry("b", "other", BAD))], SQLITE)
    text = as_markdown(found)
    assert found.main_metric == "accuracy", "one that is tested comes first"
    assert [row[0] for row in rows_of(text, "Differences")] == ["accuracy"]
    assert [row[3] for row in rows_of(text, "Values")] == ["1.0000", "1.0000"]
    assert "- auroc: no interval and no test" in text
    assert json.loads(as_json(found))["entries"][0]["metrics"]["auroc"]["low"] is None
    assert "auroc" in Tags(as_html(found)).text


def test_a_comparison_by_such_a_metric_alone_is_refused() -> None:
    entries = [with_ranking(entry("a", "one", GOOD)), with_ranking(entry("b", "other", BAD))]
    with pytest.raises(ConfigError, match="--metric auroc: cannot be tested for significance"):
        compare(entries, SQLITE, ["test/auroc"])
