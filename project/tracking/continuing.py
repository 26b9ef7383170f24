"""Whether a run may go on here, and what its store and this machine's disk must say before it does."""

from typing import TYPE_CHECKING

from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.private_names import tracking_store
from lightrail.project.tracking.journal import Journal, Point
from lightrail.project.tracking.lookup import run_artifact
from lightrail.project.tracking.processes import process_tag
from lightrail.project.tracking.recovery import clear, note_waiting, process_of, send_pending
from lightrail.project.tracking.store import RunFolders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RESUMED_TAG = "lightrail.resumed"
NOT_ENDED = 0
"""What MLflow takes for no time at all."""


def prepare_to_continue(
    client: "MlflowClient", uri: str, run_id: str, folders: RunFolders, *, force: bool, reopen: bool
) -> dict[str, int]:
    """Have the store hold all that this machine knows of a run and the journal all that the store does; set it RUNNING.

    Args:
        force: also when the store calls it RUNNING on another machine, of which nothing is known here.
        reopen: also when it is finished.

    Returns: the last step of each metric.

    Raises:
        ConfigError: the run is finished or runs.
    """
    send_pending(client, run_id)
    run = client.get_run(run_id)
    journal = Journal(folders.journal)
    if run.info.status == "FINISHED" and not reopen:
        clear(run_id, folders, journal, run.info.status)
        raise ConfigError(already_finished(client, run))
    if run.info.status == "RUNNING":
        _check_process(run, force=force)
    steps = {metric.key: metric.step for metric in run.to_proto().data.metrics}
    known = journal.last_steps()
    if any(known.get(key, -1) < step for key, step in steps.items()):  # begun on another machine, or gone on with there
        journal.restore(_history(client, run))
    note_waiting(run_id, uri, folders)
    _set_running(client, run)
    return steps


def _check_process(run: "Run", *, force: bool) -> None:
    run_id, owner = run.info.run_id, process_of(run)
    if owner is not None and owner.lives:
        raise ConfigError(f"run {run_id} is still running ({owner}). Wait for its end, or end it.")
    if (owner is None or not owner.is_here) and not force:
        raise ConfigError(
            f"run {run_id} is RUNNING, says its store ({owner or 'it does not say where'}), and from here nobody can "
            f"tell whether that is still so. If it is not, add --force."
        )


def _history(client: "MlflowClient", run: "Run") -> list[Point]:
    return [
        Point(metric.key, metric.value, metric.step, metric.timestamp)
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    ]


def _set_running(client: "MlflowClient", run: "Run") -> None:
    from mlflow.entities import RunStatus, RunTag

    run_id, tags = run.info.run_id, run.data.tags
    store = tracking_store(client)  # the client alone can set an end time, and not take it back
    store.update_run_info(run_id, RunStatus.RUNNING, NOT_ENDED, None)
    count = int(tags.get(RESUMED_TAG, 0)) + 1
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _new_tags(count).items()])
    if "lightrail.error" in tags:
        client.delete_tag(run_id, "lightrail.error")


def _new_tags(count: int) -> dict[str, str]:
    return {**process_tag(), RESUMED_TAG: str(count)}


def already_finished(client: "MlflowClient", run: "Run") -> str:
    """What is said of a finished run that somebody wants to go on with."""
    path = run_artifact(client, run, "config.yaml") or "config.yaml"
    return (
        f"run {run.info.run_id} is finished: there is nothing to go on with. A longer training is a run of its own: "
        f"lightrail fit --config {path} --trainer.max_steps N"
    )
