"""The end of a sweep: everything about the study goes into its MLflow run."""

import logging
import shutil
from collections.abc import Sequence

import optuna

from lightrail.project.tracking.run import TrackedRun
from lightrail.project.tracking.store import answering, open_store
from lightrail.sweeps.report.description import description, lead_of
from lightrail.sweeps.report.figures import write_figures
from lightrail.sweeps.report.page import report_page
from lightrail.sweeps.report.registry import mark_best, register_best
from lightrail.sweeps.report.tables import write_best, write_csv
from lightrail.sweeps.search.confirming import Confirmation, confirmation_of, write_confirmation
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome, best_outcomes, figures_of, outcomes_of

log = logging.getLogger(__name__)


def conclude(study: optuna.Study, sweep: Sweep, parent: TrackedRun) -> str:
    """Write best configurations, tables, figures, metrics and description, and register the best model.

    May be called again when the study has grown: what it wrote is replaced.

    Returns: what the command says last.

    Raises: ConfigError when the MLflow store does not answer.
    """
    outcomes = outcomes_of(study, sweep)
    confirmation = confirmation_of(study, sweep)
    best = chosen(outcomes, sweep, confirmation)
    _write(outcomes, best, sweep, parent, confirmation)
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
    return last_line(parent.run_id, figures)


def chosen(outcomes: Sequence[Outcome], sweep: Sweep, confirmation: Confirmation | None) -> list[Outcome]:
    """Give the best trial, by fresh seeds where the best were trained again; or the Pareto front."""
    if confirmation is not None and confirmation.order:
        return [own for own in outcomes if own.number == confirmation.order[0]]
    return best_outcomes(outcomes, sweep)


def last_line(run_id: str, figures: dict[str, float]) -> str:
    shown = [
        f"{name}={value:.0f}" if name.startswith("trials/") else f"{name}={value:.4f}"
        for name, value in figures.items()
    ]
    return f"sweep {run_id} finished: {' '.join(shown)}"


def _write(
    outcomes: Sequence[Outcome],
    best: Sequence[Outcome],
    sweep: Sweep,
    parent: TrackedRun,
    confirmation: Confirmation | None,
) -> None:
    folder = parent.directory
    shutil.rmtree(folder / "best", ignore_errors=True)  # of the front as it was
    shutil.rmtree(folder / "figures", ignore_errors=True)
    files = write_best(best, sweep, folder)
    write_csv(outcomes, sweep, folder / "trials.csv")
    if confirmation is not None:
        write_confirmation(confirmation, folder / "confirmed.csv")
    number = best[0].number if best else None
    drawn = write_figures(outcomes, sweep, number, folder / "figures")
    lead = lead_of(outcomes, best, sweep, confirmation)
    (folder / "report.html").write_text(report_page(outcomes, best, sweep, lead, drawn), encoding="utf-8")
    parent.set_tags({"mlflow.note.content": description(outcomes, best, files, sweep, confirmation)})
