"""The rules for runs, and what is kept of the findings: two files, a tag, and a part of the run's description."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.metrics.scores import HasBaselines
from lightrail.project.basics.durable import write_whole
from lightrail.project.basics.errors import first_line
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tables import literal
from lightrail.project.figures.run_figures import as_of_a_task
from lightrail.project.findings.data import cut_examples, inputs_cut
from lightrail.project.findings.finding import Evidence, Finding, Rule, Series, Severity
from lightrail.project.findings.predictions import calibration_far_off, class_never_predicted, no_better_than_baseline
from lightrail.project.findings.training import best_is_first, best_is_last, over_fitted
from lightrail.project.tracking.lookup import run_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

RULES: Mapping[str, tuple[Severity, Rule]] = {
    "no-better-than-baseline": ("warning", no_better_than_baseline),
    "best-is-first": ("warning", best_is_first),
    "over-fitted": ("warning", over_fitted),
    "class-never-predicted": ("warning", class_never_predicted),
    "calibration-off": ("warning", calibration_far_off),
    "best-is-last": ("note", best_is_last),
    "inputs-cut": ("note", inputs_cut),
}
"""Rules by the code of their finding, the most severe first. A code is a tag of stored runs: it is never renamed."""
MOST_FINDINGS = 3
"""Findings of a run: with more, the first thing to do is no longer seen."""
TAG, FILE = "lightrail.findings", "findings.json"


def evidence_of(data: DataModule, model: TaskModule, table: pa.Table, series: Series) -> Evidence:
    """Collect what the rules look at from a run of a task that was tested."""
    validation = next((own for own in data.summaries() if own.name == "validation"), None)
    return Evidence(
        series=series,
        monitor=model.monitor,
        lower_is_better=model.monitor_mode == "min",
        columns={name: table[name].to_numpy() for name in table.column_names},
        scores=model.scores(),
        baselines=model.baselines() if isinstance(model, HasBaselines) else {},
        num_validation=validation.num_rows if validation else 0,
        is_cut={split: cut_examples(data, split) for split in ("train", "test")},
        max_length=data.max_length if data.is_cut else 0,
    )


def plain_evidence(series: Series, monitor: str, *, lower_is_better: bool) -> Evidence:
    """Restate the series of a plain module, named as it likes, for the rules about a training."""
    own = {as_of_a_task(name): points for name, points in series.items()}
    return Evidence(series=own, monitor=as_of_a_task(monitor), lower_is_better=lower_is_better)


def find(gather: Callable[[], Evidence]) -> list[Finding]:
    """Return what the rules find, at most `MOST_FINDINGS`, the most severe first.

    Args:
        gather: collects what they look at. Where it, or a rule, raises, a line is logged: a run that is trained and
            tested stays valid.
    """
    found = []
    try:
        evidence = gather()
    except Exception as error:  # of a user's data or metric
        log.warning("no findings are given: %s: %s", type(error).__name__, first_line(error))
        return []
    for code, (severity, rule) in RULES.items():
        try:
            message = rule(evidence)
        except Exception as error:  # likewise
            log.warning("the finding %s is not given: %s: %s", code, type(error).__name__, first_line(error))
            continue
        if message is not None:
            found.append(Finding(code, severity, f"{message}."))
    return found[:MOST_FINDINGS]


def write_findings(found: Sequence[Finding], folder: Path) -> dict[str, str]:
    """Write findings into the artifacts of a run, `findings.json` and `findings.md`; return the run's tag.

    Without findings there is neither; those of an earlier report, as of a sweep that has grown, are removed.
    """
    files = folder / FILE, folder / "findings.md"
    if not found:
        is_known = files[0].exists()
        for file in files:
            file.unlink(missing_ok=True)
        return {TAG: ""} if is_known else {}
    write_whole(files[0], json.dumps([asdict(own) for own in found], ensure_ascii=False, indent=1))
    write_whole(files[1], in_markdown(found))
    return {TAG: " ".join(own.code for own in found)}


def in_markdown(found: Sequence[Finding]) -> str:
    """Return findings as a list in Markdown; "" without any."""
    return "\n".join(f"- {own.severity} **{own.code}**: {literal(own.message)} `{own.docs}`" for own in found)


def stored_findings(client: "MlflowClient", run: "Run") -> list[Finding]:
    """Return the findings of a finished run; [], and a line in the log, where they cannot be read."""
    if not run.data.tags.get(TAG):
        return []
    try:
        text = run_text(client, run, FILE)
        with reading(f"run {run.info.run_id}: its file {FILE}", "Test the run again."):
            return [Finding(**own) for own in json.loads(text or "[]")]
    except Exception as error:  # a damaged file is no reason to refuse the run or the sweep it is shown with
        log.warning("the findings of a run are left out: %s", first_line(error))
        return []
