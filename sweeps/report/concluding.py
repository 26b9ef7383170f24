"""The end of a sweep: everything about the study goes into its MLflow run."""

import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna
from mlflow.exceptions import MlflowException

from lightrail.project.findings.finding import Finding
from lightrail.project.findings.rules import write_findings
from lightrail.project.logged_models.publishing import model_of
from lightrail.project.tracking.lookup import BEST_CHECKPOINT
from lightrail.project.tracking.run import TrackedRun
from lightrail.project.tracking.store import answering, open_store
from lightrail.sweeps.report.description import description, lead_of
from lightrail.sweeps.report.edges import findings_of_sweep
from lightrail.sweeps.report.figures import write_figures
from lightrail.sweeps.report.page import report_page
from lightrail.sweeps.report.tables import write_best, write_csv
from lightrail.sweeps.search.confirming import Confirmation, confirmation_of, write_confirmation
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, best_outcomes, figures_of, outcomes_of
from lightrail.sweeps.search.study import REPORTS
from lightrail.sweeps.search.worker import best_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


log = logging.getLogger(__name__)


def conclude(study: optuna.Study, sweep: Sweep, parent: TrackedRun) -> str:
    """Write best configurations, tables, figures, metrics and description, and register the best model.

    May be called again when the study has grown: earlier output is replaced.

    Returns: the command's last line.

    Raises: ConfigError when the MLflow store does not answer.
    """
    outcomes = outcomes_of(study, sweep)
    confirmation = confirmation_of(study, sweep)
    best = chosen(outcomes, sweep, confirmation)
    run_of_best = best_run(best[0], sweep) if best else None
    found = findings_of_sweep(outcomes, best, run_of_best, sweep, parent.logger.uri)
    _write(outcomes, best, sweep, parent, confirmation, found)
    figures = figures_of(outcomes, sweep)
    if confirmation is not None and confirmation.order:
        name = f"confirmed/{confirmation.metric.removeprefix('val/')}"
        first = confirmation.order[0]
        figures |= {name: confirmation.mean(first), f"{name}_sd": confirmation.deviation(first)}
    parent.logger.log_metrics(figures, step=int(sum(figures[name] for name in figures if name.startswith("trials/"))))
    client = open_store(parent.logger.uri, create=False)
    with answering(parent.logger.uri):
        mark_best(client, best, parent.run_id)
        register_best(client, best, sweep, parent.run_id)
    if confirmation is not None:
        log.info("%s", confirmation.verdict)
    for own in found:
        log.info("%s", own)
    if not best:
        failures = [f"trial {own.number} failed: {own.failure}" for own in outcomes if own.failure]
        log.error(
            "no trial was trained to the end; %s",
            (failures or ["all were pruned" if outcomes else "none was started"])[0],
        )
    return last_line(parent.run_id, figures)


def chosen(outcomes: Sequence[Outcome], sweep: Sweep, confirmation: Confirmation | None) -> list[Outcome]:
    """Return the best trial, by its fresh seeds if there are any, or the Pareto front."""
    if confirmation is not None and confirmation.order:
        return [own for own in outcomes if own.number == confirmation.order[0]]
    return best_outcomes(outcomes, sweep)


def last_line(run_id: str, figures: dict[str, float]) -> str:
    """Return the command's last line: the run of the study and its metrics."""
    shown = [
        f"{name}={value:.0f}" if name.startswith("trials/") else f"{name}={value:.4f}"
        for name, value in figures.items()
    ]
    return f"sweep {run_id} finished: {' '.join(shown)}"


def is_without_result(line: str) -> bool:
    """Whether the command's last line is that of a sweep that has ended without one complete trial."""
    return "trials/complete=0" in line.split()


def _write(
    outcomes: Sequence[Outcome],
    best: Sequence[Outcome],
    sweep: Sweep,
    parent: TrackedRun,
    confirmation: Confirmation | None,
    found: Sequence[Finding],
) -> None:
    folder = parent.directory
    shutil.rmtree(folder / "best", ignore_errors=True)  # of an earlier front, which may have had other trials
    shutil.rmtree(folder / "figures", ignore_errors=True)
    files = write_best(best, sweep, folder)
    write_csv(outcomes, sweep, folder / "trials.csv")
    if confirmation is not None:
        write_confirmation(confirmation, folder / "confirmed.csv")
    number = best[0].number if best else None
    drawn = write_figures(outcomes, sweep, number, folder / "figures")
    lead = " ".join([lead_of(outcomes, best, sweep, confirmation), *(f"{own.code}: {own.message}" for own in found)])
    (folder / "report.html").write_text(report_page(outcomes, best, sweep, lead, drawn), encoding="utf-8")
    note = description(outcomes, best, files, sweep, confirmation, found)
    parent.set_tags({"mlflow.note.content": note, **write_findings(found, folder)})


BEST_TAG = "lightrail.best"
ALIAS = "best"


def mark_best(client: "MlflowClient", best: Sequence[Outcome], parent: str) -> None:
    """Tag the runs of the best trials, and remove the tag from all other runs under the study's run."""
    wanted = {run_id for own in best for run_id in own.runs.values()}
    experiment = client.get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{BEST_TAG}` = 'true'"
    tagged = {run.info.run_id for run in client.search_runs([experiment], condition)}
    for run_id in tagged - wanted:
        client.delete_tag(run_id, BEST_TAG)
    for run_id in wanted - tagged:
        client.set_tag(run_id, BEST_TAG, "true")


def register_best(client: "MlflowClient", best: Sequence[Outcome], sweep: Sweep, parent: str) -> None:
    """Register the MLflow model of the best trial under the name of the study, with the alias `best`.

    Trials of a Pareto front get the alias `best-TRIAL`; of several seeds the run with the best first metric is taken.
    A store without a registry gives a warning.
    """
    name = sweep.name.replace("/", "-").replace(":", "-")
    try:
        if best and not client.search_registered_models(f"name='{name}'", max_results=1):
            client.create_registered_model(name, description=f"Best models of the sweep {sweep.name}, run {parent}.")
        for own in best:
            alias = ALIAS if len(sweep.config.metrics) == 1 else f"{ALIAS}-{own.number}"
            client.set_registered_model_alias(name, alias, _version(client, name, own, sweep))
    except MlflowException as error:
        log.warning("the best model is not registered: %s", str(error).partition("\n")[0])


def best_run(outcome: Outcome, sweep: Sweep) -> str:
    """Return the trial's MLflow run with the best first metric among its seeds."""
    sign = 1 if sweep.config.directions[0] == "maximize" else -1
    reports = outcome.trial.user_attrs[REPORTS]
    return max(outcome.runs.items(), key=lambda item: sign * best_of(reports[str(item[0])], sweep)[0])[1]


def _version(client: "MlflowClient", name: str, outcome: Outcome, sweep: Sweep) -> str:
    """The model version of a trial, registered if it is not yet; of a run without a model that of its checkpoint."""
    run = client.get_run(best_run(outcome, sweep))
    model = model_of(client, run)
    source = model.artifact_location if model else f"{run.info.artifact_uri}/{BEST_CHECKPOINT}"
    known = [
        own
        for own in client.search_model_versions(f"name='{name}'")
        if own.run_id == run.info.run_id and own.source == source
    ]
    if known:
        return str(known[0].version)
    values = dict(zip(sweep.config.metrics, map(str, outcome.values), strict=True))
    tags = {"lightrail.study": sweep.name, "lightrail.trial": str(outcome.number), **values}
    of_model = {"model_id": model.model_id} if model else {}
    made = client.create_model_version(name, source, run.info.run_id, tags=tags, await_creation_for=0, **of_model)
    return str(made.version)
