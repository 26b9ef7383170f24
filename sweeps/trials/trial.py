"""One trial, in a process of its own: the training that `lightrail fit` does, or the rest of an interrupted one.

Run: python -m lightrail.sweeps.trials.trial ASSIGNMENT.json FD LIVENESS_FD, for a trial of several processes, since
Lightning starts the others with the command line of the first. Trials of one process are forked from one that has
imported everything.
"""

import _thread
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightrail.project.basics.errors import first_line
from lightrail.project.basics.logs import set_up_logging
from lightrail.project.configuration import Configuration
from lightrail.project.last_resort import is_out_of_memory
from lightrail.project.running.fitting import TRAINED_TAG, fit
from lightrail.project.running.resuming import evaluate_trained, find_interrupted, go_on, has_begun
from lightrail.project.tracking.lookup import test_metrics
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.processes import Terminated
from lightrail.project.tracking.recovery import close_dead_runs
from lightrail.project.tracking.run import GivenUp
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.trials.callback import GIVEN_UP_AT, NonFinite, TrialReporter
from lightrail.sweeps.trials.messages import (
    HALVED_TAG,
    Assignment,
    Failed,
    FailureKind,
    Finished,
    first_failure,
    record_failure,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Train as one process of a trial of several; return the exit status."""
    file, *descriptors = arguments
    assignment = Assignment(**json.loads(Path(file).read_text(encoding="utf-8")))
    if int(os.environ.get("LOCAL_RANK", "0")):
        return follow(assignment)
    connection, liveness = (Connection(int(number)) for number in descriptors)
    return lead(assignment, connection, liveness)


def lead(assignment: Assignment, connection: Connection, liveness: Connection) -> int:
    """Train as the first process of a trial, send the outcome to the driver, and return the exit status.

    Args:
        liveness: pipe whose other end the driver holds. When the driver dies this process stops as by a signal: at the
            next step, with a checkpoint.
    """
    os.setsid()  # Ctrl-C is for the driver; and this process can be killed together with its child processes
    _write_to(assignment.log)
    _prepare(assignment)
    _watch(lambda: _until_closed(liveness), lambda: os.kill(os.getpid(), signal.SIGTERM))
    reporter = TrialReporter(connection, assignment.metrics)
    try:
        metrics = _train(assignment, reporter)
        outcome: Finished | Failed = Finished(dict(metrics))
    except BaseException as error:
        log.exception("the trial ended early")
        outcome = first_failure(assignment.log) or reporter.killed or Failed(_reason(error), _kind(error))
    with suppress(OSError):
        connection.send(outcome)
    return int(isinstance(outcome, Failed))


def follow(assignment: Assignment) -> int:
    """Train as a further process of a trial, which ends with the first; return the exit status."""
    parent = os.getppid()
    _prepare(assignment)
    _watch(lambda: _until_orphaned(parent), lambda: os._exit(1))
    try:
        _train(assignment, TrialReporter(None, assignment.metrics))
    except Exception as error:
        record_failure(assignment.log, Failed(_reason(error), _kind(error)))
        raise
    return 0


def _train(assignment: Assignment, reporter: TrialReporter) -> Mapping[str, float]:
    configuration = Configuration(assignment.values)
    client = open_store(store_uri(configuration.tracking()), create=False)
    run = _earlier(client, assignment, configuration.seed)
    if run is None:
        return fit(configuration, tags=assignment.tags, callbacks=[reporter], tests=assignment.tests).metrics
    if assignment.tests and TRAINED_TAG in run.data.tags and not test_metrics(run):  # by what no process changes
        return evaluate_trained(run, configuration, force=True).metrics
    if run.info.status == "FINISHED":  # its process was ended before it could report that
        return test_metrics(run)
    if GIVEN_UP_AT in run.data.tags:
        raise GivenUp(int(run.data.tags[GIVEN_UP_AT]))
    close_dead_runs(client)
    before = find_interrupted(client, client.get_run(run.info.run_id))
    return go_on(before, configuration, callbacks=[reporter], force=True, tests=assignment.tests).metrics


def _earlier(client: "MlflowClient", assignment: Assignment, seed: int) -> "Run | None":
    """The run of an earlier process of this trial; one without anything to resume from is deleted."""
    if assignment.run_id is not None:
        found = [find_run(client, assignment.run_id)]
    elif assignment.has_begun:  # its driver died before it received the run's id
        found = _runs_of(client, assignment, seed)
    else:
        found = []
    usable = [run for run in found if has_begun(client, run)]
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        for run in found:
            if run not in usable:
                client.delete_run(run.info.run_id)
    return usable[-1] if usable else None


def _runs_of(client: "MlflowClient", assignment: Assignment, seed: int) -> "list[Run]":
    wanted = {**assignment.tags, "lightrail.seed": str(seed)}
    condition = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, condition, order_by=["attributes.start_time ASC"])
    return [run for run in runs if (HALVED_TAG in run.data.tags) == (HALVED_TAG in wanted)]


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, GivenUp | NonFinite) else f"{type(error).__name__}: {first_line(error)}"


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, GivenUp):
        return "pruned"
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "interrupted"
    return "memory" if is_out_of_memory(error) else "error"


def _write_to(log_file: str) -> None:
    """Redirect the standard output and error of this process and its children to the trial's log."""
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(descriptor, number)
    os.close(descriptor)


def _prepare(assignment: Assignment) -> None:
    if assignment.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, assignment.devices))
    os.environ["OMP_NUM_THREADS"] = str(assignment.threads)
    torch.set_num_threads(assignment.threads)
    set_up_logging()


def _watch(wait: Callable[[], None], then: Callable[[], None]) -> None:
    def watch() -> None:
        wait()
        then()

    _thread.start_new_thread(watch, ())


def _until_closed(liveness: Connection) -> None:
    with suppress(EOFError, OSError):
        liveness.recv()


def _until_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
