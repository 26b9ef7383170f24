"""Putting right what a process that died left behind: metrics that were not sent, and a run that says RUNNING."""

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from project.tracking.folders import run_folders
from project.tracking.journal import Ending, Journal
from project.tracking.sender import deliver, end_run, milliseconds_now

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

PROCESS_TAG = "lightrail.process"
CLOCK_TOLERANCE_SECONDS = 5
"""A process's start is reckoned from the machine's, which moves when the clock is set."""
GONE = "the process is gone and did not say why (kill -9, out of memory or power); lightrail resume goes on from here"


def process_tag() -> dict[str, str]:
    """Return the tag by which this machine can tell later whether the process of a run still lives."""
    return {PROCESS_TAG: f"{_machine()} {os.getpid()} {int(psutil.Process().create_time())}"}


def send_pending(client: "MlflowClient", run_id: str) -> int:
    """Send what run `run_id` left on this machine's disk, its end included, and return how many metrics that was.

    May be called again and at any time: the store keeps each point once.
    """
    run = client.get_run(run_id)
    journal = Journal(run_folders(run_id, run.info.artifact_uri).journal)
    return deliver(client, run_id, journal)


def close_dead_runs(client: "MlflowClient") -> list[str]:
    """End the RUNNING runs whose process on this machine is gone, and return their ids.

    Their unsent metrics are sent first. A run whose own end was only waiting to be sent gets that status; the others
    become FAILED.
    """
    closed = []
    for run in _running_here(client):
        if _lives(run.data.tags[PROCESS_TAG]):
            continue
        run_id = run.info.run_id
        count = send_pending(client, run_id)
        if client.get_run(run_id).info.status == "RUNNING":
            end_run(client, run_id, Ending("FAILED", GONE, milliseconds_now()))
        log.info("run %s: its process is gone; sent %d metrics that waited and closed it", run_id, count)
        closed.append(run_id)
    return closed


def _running_here(client: "MlflowClient") -> "list[Run]":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = f"attributes.status = 'RUNNING' AND tags.`{PROCESS_TAG}` LIKE '{_machine()} %'"
    return list(client.search_runs(experiments, condition))


def _lives(process: str) -> bool:
    _, number, created = process.rsplit(" ", 2)
    try:
        found = psutil.Process(int(number))
        is_same = abs(found.create_time() - int(created)) < CLOCK_TOLERANCE_SECONDS
        return is_same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """Return a name that two machines do not share, even where all are called localhost."""
    path = Path("/etc/machine-id")
    number = path.read_text().strip()[:8] if path.exists() else ""
    return f"{socket.gethostname()}/{number}"
