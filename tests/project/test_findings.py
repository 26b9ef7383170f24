"""Findings: each rule finds what it is for in a run made to show it, and nothing in one like those that are shipped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.lightning_modules.causal_lm import CausalLM
from lightrail.lightning_modules.metrics.entity_scores import entity_scores
from lightrail.lightning_modules.metrics.label_scores import label_scores
from lightrail.lightning_modules.metrics.scores import HasBaselines, SumRatio, WeightedMean
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.project.basics.catalogue import ROOT
from lightrail.project.findings import rules
from lightrail.project.findings.data import cut_examples
from lightrail.project.findings.finding import Evidence, Finding, standard_error
from lightrail.project.findings.rules import (
    RULES,
    find,
    in_markdown,
    plain_evidence,
    stored_findings,
    write_findings,
)
from lightrail.project.running.seeds import SeedResult, findings_of_all
from tests.support.running import FOUR_STEPS, QUIET, RecordedRun, lightrail

LABELS = ["a", "b", "c"]
SCORES = label_scores(LABELS, has_many=False)


def predictions(accuracy: float, number: int = 600, *, targets: Sequence[str] = LABELS) -> dict[str, Any]:
    """Columns of a classifier that is right in each class with this probability, and as sure as that."""
    draw = np.random.default_rng(1)
    target = np.array([targets[place % len(targets)] for place in range(number)], dtype=object)
    is_right = draw.random(number) < accuracy
    wrong = np.array([LABELS[(LABELS.index(own) + 1) % 3] for own in target], dtype=object)
    return {
        "prediction": np.where(is_right, target, wrong),
        "target": target,
        "score": np.full(number, accuracy),
        "loss": np.where(is_right, 0.1, 2.0),
    }


def series(values: Sequence[float], every: int = 100) -> list[tuple[int, float]]:
    return [((place + 1) * every, value) for place, value in enumerate(values)]


def evidence(**more: Any) -> Evidence:
    """A good run: a metric that has levelled off, of 600 predictions."""
    columns = predictions(0.9)
    good: dict[str, Any] = {
        "series": {
            "val/accuracy": series([0.7, 0.85, 0.88, 0.895, 0.9]),
            "val/loss": series([0.9, 0.6, 0.45, 0.42, 0.43]),
            "train/loss": series([0.9, 0.6, 0.45, 0.4, 0.38]),
        },
        "monitor": "val/accuracy",
        "columns": columns,
        "scores": SCORES,
        "num_validation": 600,
    }
    return Evidence(**{**good, **more})


def changed(**curves: Sequence[float]) -> Evidence:
    """The good run with other curves: `accuracy`, `loss`, `train`."""
    names = {"accuracy": "val/accuracy", "loss": "val/loss", "train": "train/loss"}
    return evidence(series={**evidence().series, **{names[name]: series(own) for name, own in curves.items()}})


def codes(own: Evidence) -> list[str]:
    return [finding.code for finding in find(lambda: own)]


def messages(own: Evidence) -> dict[str, str]:
    return {finding.code: finding.message for finding in find(lambda: own)}


def test_a_good_run_has_no_findings() -> None:
    assert codes(evidence()) == []
    assert codes(Evidence()) == []


def test_a_training_that_ends_while_its_metric_rises_is_too_short() -> None:
    found = messages(changed(accuracy=[0.3, 0.45, 0.58, 0.7, 0.81]))
    assert found == {
        "best-is-last": "the last validation was the best, and val/accuracy was still improving: 0.7 at step 400, "
        "0.81 at step 500. Train longer."
    }


@pytest.mark.parametrize(
    "accuracy",
    [
        [0.5, 0.7, 0.8, 0.85, 0.87],  # gains that halve: a schedule that ends at zero has its best at the end
        [0.7971, 0.8481, 0.8655, 0.8726],  # of `pinyin`
        [0.6795, 0.7743, 0.7931, 0.8021, 0.8187, 0.8199],  # of an entity tagger
        [0.5, 0.8, 0.8, 0.8, 0.9],  # a learning rate that dropped
        [0.3, 0.5, 0.7],  # too few validations
        [0.3, 0.45, 0.58, 0.81, 0.8],
    ],
)
def test_a_best_value_at_the_end_alone_is_no_finding(accuracy: list[float]) -> None:
    assert "best-is-last" not in codes(changed(accuracy=accuracy))


def test_few_examples_cannot_show_that_a_metric_still_rises() -> None:
    own = changed(accuracy=[0.3, 0.45, 0.58, 0.7, 0.81])
    few = {name: column[:39] for name, column in own.columns.items()}
    assert codes(evidence(series=own.series, columns=few, num_validation=39)) == []


def test_a_loss_is_better_when_it_is_lower() -> None:
    scores = {"loss": WeightedMean(column="loss", higher_is_better=False)}
    loss = [3.0, 2.4, 1.9, 1.5, 1.2]
    falls = evidence(series={"val/loss": series(loss)}, monitor="val/loss", lower_is_better=True, scores=scores)
    assert codes(falls) == ["best-is-last"]
    rises = evidence(series={"val/loss": series(loss[::-1])}, monitor="val/loss", lower_is_better=True, scores=scores)
    assert codes(rises) == ["best-is-first"]


def test_a_training_that_only_gets_worse_is_found() -> None:
    found = messages(changed(accuracy=[0.9, 0.6, 0.4, 0.3]))
    assert "val/accuracy was best at the first validation (0.9 at step 100) and ended at 0.3" in found["best-is-first"]
    assert codes(changed(accuracy=[0.9, 0.89, 0.89, 0.895])) == []  # no worse than chance makes it
    assert codes(changed(accuracy=[0.9, 0.5])) == []


def test_over_fitting_is_a_loss_that_rises_while_the_training_loss_falls() -> None:
    accuracy = [0.85, 0.9, 0.89, 0.88, 0.88]
    over = {"accuracy": accuracy, "loss": [0.6, 0.4, 0.5, 0.65, 0.8], "train": [0.6, 0.3, 0.1, 0.03, 0.01]}
    assert (
        "risen from 0.4 at step 200 to 0.8, and the training loss fell to 0.02"
        in messages(changed(**over))["over-fitted"]
    )
    assert codes(changed(**{**over, "loss": [0.5, 0.44, 0.46, 0.5, 0.52]})) == []  # of `text_classification`
    assert codes(changed(**{**over, "train": [0.6, 0.5, 0.5, 0.7, 0.7]})) == []  # the data are different, not learned
    assert codes(changed(**{**over, "accuracy": [0.7, 0.8, 0.86, 0.89, 0.9]})) == []  # sure of itself, and right


def test_a_series_of_a_resumed_run_is_read_as_one() -> None:
    """The steps after the checkpoint were logged twice."""
    twice = [*series([0.3, 0.45, 0.58, 0.5]), *((step + 200, value) for step, value in series([0.58, 0.7, 0.81]))]
    own = evidence(series={"val/accuracy": twice})
    assert own.points("val/accuracy") == series([0.3, 0.45, 0.58, 0.7, 0.81])
    assert codes(own) == ["best-is-last"]


def test_a_plain_module_is_judged_by_its_own_names() -> None:
    rises = {"val_loss": series([0.5, 0.6, 0.8, 0.9])}
    assert [own.code for own in find(lambda: plain_evidence(rises, "val_loss", lower_is_better=True))] == [
        "best-is-first"
    ]
    assert find(lambda: plain_evidence(rises, "val_loss", lower_is_better=False)) != []
    assert find(lambda: plain_evidence({}, "", lower_is_better=True)) == []


def test_a_model_that_has_learned_nothing_is_no_better_than_a_baseline() -> None:
    """It predicts one label, or any, and its labels are right by chance."""
    same = {**predictions(0.5, targets=["a", "a", "b"]), "prediction": np.full(600, "b", dtype=object)}
    found = messages(evidence(columns=same))["no-better-than-baseline"]
    assert "test/accuracy is 0.3333, and always predicting 'a' gives 0.6667" in found
    by_chance = {**predictions(0.9), "prediction": np.random.default_rng(0).permutation(predictions(0.9)["target"])}
    macro = evidence(columns=by_chance, monitor="val/f1_macro")
    assert "in random order reach" in messages(macro)["no-better-than-baseline"]
    assert "no-better-than-baseline" not in codes(evidence(columns=predictions(0.45)))
    few = {name: column[:29] for name, column in same.items()}
    assert "no-better-than-baseline" not in codes(evidence(columns=few))


def test_an_entity_tagger_that_finds_nothing_is_no_better_than_a_baseline() -> None:
    targets = np.array([f"{place % 5}:{place % 5 + 2}:PER" for place in range(100)], dtype=object)
    found = {"scores": entity_scores(["PER", "LOC"]), "monitor": "val/f1"}
    nothing = {"prediction": np.full(100, "", dtype=object), "target": targets}
    assert codes(evidence(columns=nothing, **found)) == ["no-better-than-baseline", "class-never-predicted"]
    half = {**nothing, "prediction": np.where(np.arange(100) % 2, targets, "")}
    assert codes(evidence(columns=half, **found)) == []


def test_a_language_model_is_compared_with_equal_probabilities_for_all_tokens() -> None:
    task = CausalLM({"size": 50}, decoder=TransformerDecoderConfig(width=8, depth=1, num_heads=1))
    assert isinstance(task, HasBaselines)
    loss = {"loss": np.full(40, 3.8), "num_targets": np.full(40, 5)}
    own = {"scores": {"loss": task.scores()["loss"]}, "baselines": task.baselines(), "monitor": "val/loss"}
    assert codes(evidence(columns=loss, **own, series={})) == []
    worse = {**loss, "loss": np.full(40, 4.0)}
    assert (
        "is 4, and without learning it is 3.912"
        in messages(evidence(columns=worse, **own, series={}))["no-better-than-baseline"]
    )


def test_a_metric_of_other_columns_has_no_baseline_of_its_own() -> None:
    """As the characters of pinyin."""
    columns = {**predictions(0.1), "num_edits": np.full(600, 9), "num_hanzi": np.full(600, 10)}
    scores = {"characters": SumRatio(numerator="num_edits", denominator="num_hanzi", is_complement=True)}
    assert codes(evidence(columns=columns, scores=scores, monitor="val/characters")) == []


def test_a_class_that_is_never_predicted_is_named() -> None:
    columns = predictions(0.9)
    columns["prediction"] = np.where(columns["prediction"] == "c", "a", columns["prediction"])
    found = messages(evidence(columns=columns))
    assert found["class-never-predicted"].startswith("1 of 3 classes is never predicted: 'c', 200 times in the test")
    rare = {name: column[(columns["target"] != "c") | (np.arange(600) < 27)] for name, column in columns.items()}
    assert (rare["target"] == "c").sum() == 9
    assert codes(evidence(columns=rare)) == []


def test_confidences_that_are_far_off_are_found() -> None:
    sure = {**predictions(0.7), "score": np.full(600, 0.95)}
    assert "confidences are off by 2" in messages(evidence(columns=sure))["calibration-off"]
    assert codes(evidence(columns={**sure, "score": np.full(600, 0.77)})) == []
    few = {name: column[:40] for name, column in predictions(0.6).items()}
    few["score"] = np.linspace(0.4, 0.8, 40)
    assert SCORES["ece"].of(few) > 0.1
    assert "calibration-off" not in codes(evidence(columns=few))  # chance: some bins hold four examples


def test_cut_inputs_are_found_where_they_fare_worse() -> None:
    is_cut = {"train": np.arange(100) % 5 == 0, "test": np.arange(600) % 4 == 0}
    columns = {**predictions(0.9), "loss": np.where(is_cut["test"], 1.5, 0.2)}
    found = messages(evidence(columns=columns, is_cut=is_cut, max_length=128))
    assert found["inputs-cut"].startswith("20 % of the training examples are longer than data.max_length=128 and were")
    assert codes(evidence(is_cut=is_cut)) == []  # they do not
    assert codes(evidence(columns=columns, is_cut={**is_cut, "train": np.arange(100) % 20 == 0})) == []


@pytest.mark.parametrize(("truncation", "expected"), [("head", [False, True]), ("windows", [])])
def test_an_example_is_cut_where_it_is_longer_than_the_network_reads(
    truncation: Any, expected: list[bool], tmp_path: Path
) -> None:
    (tmp_path / "texts.csv").write_text("text,label\nshort,a\nmuch longer than that,b\n", encoding="utf-8")
    file = str(tmp_path / "texts.csv")
    data = TextClassificationData(
        path=file,
        validation_path=file,
        test_path=file,
        tokenizer="words",
        min_count=1,
        max_length=3,
        truncation=truncation,
    )
    data.prepare_data()
    data.setup("fit")
    assert cut_examples(data, "train").tolist() == expected


def test_the_error_of_a_metric_is_that_of_theory() -> None:
    columns = predictions(0.8, 2000)
    error, number = standard_error(SCORES["accuracy"], columns)
    assert number == 2000
    assert error == pytest.approx((0.8 * 0.2 / 2000) ** 0.5, rel=0.4)
    assert evidence(columns=columns, num_validation=500).noise("val/accuracy") == pytest.approx(2 * error)


def test_a_run_has_three_findings_at_most_and_warnings_come_first() -> None:
    severities = [severity for severity, _ in RULES.values()]
    assert severities == sorted(severities, reverse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "RULES", {str(number): ("note", lambda _: "found") for number in range(5)})
        assert codes(evidence()) == ["0", "1", "2"]


def test_every_code_has_a_section_in_the_guide() -> None:
    sections = [
        line[3:] for line in (ROOT / "docs" / "findings.md").read_text("utf-8").splitlines() if line[:3] == "## "
    ]
    assert {*RULES, "setting-at-edge"} <= set(sections)


def test_seeds_share_their_findings() -> None:
    one, other = Finding("best-is-last", "note", "it was."), Finding("over-fitted", "warning", "it is.")
    found = findings_of_all(
        {3: SeedResult("x", {}, [one]), 4: SeedResult("y", {}), 5: SeedResult("z", {}, [one, other])}
    )
    assert [str(own) for own in found] == [
        "finding  best-is-last: seeds 3, 5: it was. (docs/findings.md#best-is-last)",
        "finding  over-fitted: seed 5: it is. (docs/findings.md#over-fitted)",
    ]


def broken(_: Evidence) -> str | None:
    raise ZeroDivisionError("of a metric")


@pytest.fixture
def random_labels(tmp_path: Path) -> list[str]:
    """Arguments of a classifier of texts that have nothing to do with their labels."""
    for split, number in {"train": 8, "validation": 8, "test": 60}.items():
        rows = [{"text": f"the word {place}", "label": "+-"[place % 2]} for place in range(number)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = ["width=16", "depth=1", "num_heads=2", "ngram_orders=[2]", "ngram_buckets=64", "ngram_width=8"]
    paths = {"path": "train", "validation_path": "validation", "test_path": "test"}
    return [
        *("--model=TextClassifier", "--data=TextClassificationData", "--data.tokenizer=words", "--data.min_count=1"),
        *(f"--data.{name}={tmp_path}/{split}.jsonl" for name, split in paths.items()),
        *(f"--model.encoder.{size}" for size in sizes),
        *FOUR_STEPS,
        *QUIET,
    ]


def test_a_run_says_and_keeps_what_was_found(
    random_labels: list[str], store: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a rule that raises changes nothing but a line of the log."""
    monkeypatch.setattr(rules, "RULES", {**RULES, "over-fitted": ("warning", broken)})
    outcome = lightrail("fit", *random_labels, f"--tracking.uri={store}")
    assert outcome.status == 0, outcome.err
    run = RecordedRun(store, outcome.run_id)
    assert run.status == "FINISHED"
    *found, last = [line for line in outcome.out.splitlines() if line.startswith(("finding", "run"))]
    assert last == outcome.last_line
    line = found[0]
    assert line.startswith("finding  no-better-than-baseline: test/accuracy is ")
    assert line.endswith("(docs/findings.md#no-better-than-baseline)")
    assert run.tags["lightrail.findings"].split()[0] == "no-better-than-baseline"
    assert "- warning **no-better-than-baseline**: test/accuracy is " in run.tags["mlflow.note.content"]
    stored = stored_findings(run.client, run.client.get_run(run.run_id))
    assert str(stored[0]) == line
    assert (run.directory / "findings.md").read_text("utf-8") == in_markdown(stored)
    assert "the finding over-fitted is not given: ZeroDivisionError: of a metric" in caplog.text
    (run.directory / "findings.json").write_text('[{"code": 1}]', encoding="utf-8")
    assert stored_findings(run.client, run.client.get_run(run.run_id)) == []
    assert "the findings of a run are left out: " in caplog.text


def test_a_good_run_keeps_nothing_and_a_report_that_is_written_again_forgets(tmp_path: Path) -> None:
    assert write_findings([], tmp_path) == {}
    assert write_findings([Finding("over-fitted", "warning", "it is.")], tmp_path) == {
        "lightrail.findings": "over-fitted"
    }
    assert write_findings([], tmp_path) == {"lightrail.findings": ""}
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_collected_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def gather() -> Evidence:
        raise KeyError("loss")

    assert find(gather) == []
    assert caplog.messages == ["no findings are given: KeyError: there is no 'loss'"]
