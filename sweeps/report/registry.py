"""Which of a sweep's runs is the best, said where others look for it: a tag, and an alias in the model registry."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from lightrail.project.tracking.lookup import BEST_CHECKPOINT
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome
from lightrail.sweeps.search.study import REPORTS
from lightrail.sweeps.search.worker import best_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

BEST_TAG = "lightrail.best"
ALIAS = "best"


def mark_best(client: "MlflowClient", best: Sequence[Outcome], parent: str) -> None:
    """Tag the runs of the best trials, and no others under the study's run any more."""
    wanted = {run_id for own in best for run_id in own.runs.values()}
    experiment = client.get_run(parent).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{BEST_TAG}` = 'true'"
    tagged = {run.info.run_id for run in client.search_runs([experiment], condition)}
    for run_id in tagged - wanted:
        client.delete_tag(run_id, BEST_TAG)
    for run_id in wanted - tagged:
        client.set_tag(run_id, BEST_TAG, "true")


def register_best(client: "MlflowClient", best: Sequence[Outcome], sweep: Sweep, parent: str) -> None:
    """Register the checkpoint of the best trial, under the name of the study with the alias `best`.

    Of a Pareto front each with the alias `best-TRIAL`; of several seeds the run that did best by the first metric. A
    store without a registry is a warning.
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
    """Give the run of the seed that did best by the first metric."""
    sign = 1 if sweep.config.directions[0] == "maximize" else -1
    reports = outcome.trial.user_attrs[REPORTS]
    return max(outcome.runs.items(), key=lambda item: sign * best_of(reports[str(item[0])], sweep)[0])[1]


def _version(client: "MlflowClient", name: str, outcome: Outcome, sweep: Sweep) -> str:
    """The version that holds a trial's model; it is registered once."""
    run_id = best_run(outcome, sweep)
    known = [own for own in client.search_model_versions(f"name='{name}'") if own.run_id == run_id]
    if known:
        return str(known[0].version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{BEST_CHECKPOINT}"
    values = dict(zip(sweep.config.metrics, map(str, outcome.values), strict=True))
    tags = {"lightrail.study": sweep.name, "lightrail.trial": str(outcome.number), **values}
    made = client.create_model_version(name, source, run_id, tags=tags, await_creation_for=0)
    return str(made.version)
