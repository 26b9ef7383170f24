"""One trial, in a process of its own: the training that `lightrail fit` does, or the rest of an interrupted one.

Run: python -m lightrail.sweeps.trials.trial ASSIGNMENT.json FD LIFELINE_FD, for a trial of several processes, since
Lightning starts
the others with the command line of the first. Trials of one process are forked from one that has imported everything.
"""

import json
import logging
import os
import signal
import sys
import threading
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
from lightrail.project.running.fitting import fit
from lightrail.project.running.resuming import find_interrupted, go_on, has_begun
from lightrail.project.tracking.lookup import find_run, test_metrics
from lightrail.project.tracking.recovery import close_dead_runs
from lightrail.project.tracking.run import GivenUp, Terminated
from lightrail.project.tracking.store import open_store, store_uri
from lightrail.sweeps.trials.callback import GIVEN_UP_AT, Spoilt, TrialReporter
from lightrail.sweeps.trials.messages import (
    HALVED_TAG,
    Assignment,
    Failed,
    FailureKind,
    Finished,
    cause_in_others,
    note_cause,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    file, *descriptors = arguments
    assignment = Assignment(**json.loads(Path(file).read_text(encoding="utf-8")))
    if int(os.environ.get("LOCAL_RANK", "0")):
        return follow(assignment)
    connection, lifeline = (Connection(int(number)) for number in descriptors)
    return lead(assignment, connection, lifeline)


def lead(assignment: Assignment, connection: Connection, lifeline: Connection) -> int:
    """Train as the first process of a trial, and tell the driver what comes of it.

    Args:
        lifeline: of which the driver holds the other end. When it dies this process stops as a signal would stop it:
            at the next step, with a checkpoint.

    Returns: exit status.
    """
    os.setsid()  # Ctrl-C is the driver's; and what this process starts can be ended together with it
    _write_to(assignment.log)
    _prepare(assignment)
    _watch(lambda: _until_closed(lifeline), lambda: os.kill(os.getpid(), signal.SIGTERM))
    reporter = TrialReporter(connection, assignment.metrics)
    try:
        metrics = _train(assignment, reporter)
        outcome: Finished | Failed = Finished(dict(metrics))
    except BaseException as error:
        log.exception("the trial ended early")
        outcome = cause_in_others(assignment.log) or reporter.killed or Failed(_reason(error), _kind(error))
    with suppress(OSError):
        connection.send(outcome)
    return int(isinstance(outcome, Failed))


def follow(assignment: Assignment) -> int:
    """Train as a further process of a trial; its end is that of the first."""
    parent = os.getppid()
    _prepare(assignment)
    _watch(lambda: _until_orphaned(parent), lambda: os._exit(1))
    try:
        _train(assignment, TrialReporter(None, assignment.metrics))
    except Exception as error:
        note_cause(assignment.log, Failed(_reason(error), _kind(error)))
        raise
    return 0


def _train(assignment: Assignment, reporter: TrialReporter) -> Mapping[str, float]:
    configuration = Configuration(assignment.values)
    client = open_store(store_uri(configuration.tracking()), create=False)
    run = _earlier(client, assignment, configuration.seed)
    if run is None:
        return fit(configuration, tags=assignment.tags, callbacks=[reporter]).metrics
    if run.info.status == "FINISHED":  # its process was ended before it could say so
        return test_metrics(run)
    if GIVEN_UP_AT in run.data.tags:
        raise GivenUp(int(run.data.tags[GIVEN_UP_AT]))
    close_dead_runs(client)
    before = find_interrupted(client, client.get_run(run.info.run_id))
    return go_on(before, configuration, callbacks=[reporter], force=True).metrics


def _earlier(client: "MlflowClient", assignment: Assignment, seed: int) -> "Run | None":
    """The run that an earlier process of this trial began; one that holds nothing to go on with is removed."""
    if assignment.run_id is not None:
        found = [find_run(client, assignment.run_id)]
    elif assignment.has_begun:  # its driver died before it heard of the run
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
    return str(error) if isinstance(error, GivenUp | Spoilt) else f"{type(error).__name__}: {first_line(error)}"


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, GivenUp):
        return "pruned"
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "interrupted"
    says_so = any(words in str(error) for words in ("not enough memory", "can't allocate memory"))  # of a CPU
    return "memory" if says_so or isinstance(error, MemoryError | torch.OutOfMemoryError) else "error"


def _write_to(log_file: str) -> None:
    """Send everything that this process and those it starts write into the trial's own file."""
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

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _until_closed(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()


def _until_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
