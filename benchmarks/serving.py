"""Latency and throughput of `lightrail serve`, beside other servers of the same network.

The same two-layer BERT answers one text a request to 1, 8 and 32 clients that each ask again as soon as they are
answered. The servers run in turn, each in a process of its own on one core, several times; the result is the median of
the rounds, and the time of the core that a request takes, which other work on the machine changes less. Texts are whole
reviews, 87 tokens on average, and their first twenty characters.
Run: python -m benchmarks.serving (ten minutes; --rounds 1: four). With --soak 600 it looks for memory and requests that
are lost. With --onnx it compares the network in PyTorch with its export in onnxruntime, without a server.
"""

import argparse
import asyncio
import itertools
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil

from benchmarks.training_speed import MAX_LENGTH, mixed_reviews, write_data, write_network

CLIENTS = (1, 8, 32)
CORES = sorted(os.sched_getaffinity(0))
"""Cores of this machine: the first for the server, the last for its clients."""
NUM_TEXTS = 500
BATCH = 32
"""Texts of a batch, where networks are compared."""


class Program(NamedTuple):
    """A server, and what is sent to it."""

    command: Callable[[Path], list[str]]
    path: str
    body: Callable[[str], dict[str, Any]]
    """The body that asks for a text."""


class Measured(NamedTuple):
    """A number of clients, served for a while."""

    p50_ms: float
    p99_ms: float
    a_second: float
    core_ms: float
    """Milliseconds of the server's core for each request."""
    num_failed: int


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.WARNING)
    os.sched_setaffinity(0, {CORES[-1]})
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reviews = _prepare(folder)
        if arguments.soak:
            _soak(folder, reviews, arguments.soak)
            return
        if arguments.onnx:
            _compare_onnx(folder, {"reviews": reviews, "20 characters": [text[:20] for text in reviews]})
            return
        kinds = {"reviews": reviews, "20 characters": [text[:20] for text in reviews]}
        loads = [(kind, texts, number) for kind, texts in kinds.items() for number in CLIENTS]
        rounds: dict[str, list[list[Measured]]] = {program: [] for program in PROGRAMS}
        for _, (program, own) in itertools.product(range(arguments.rounds), PROGRAMS.items()):
            with _served(own, folder) as (url, process):
                found = []
                for _, texts, number in loads:
                    # The first batches of each size and length take longer, and are not timed.
                    asyncio.run(_asked(own, url, process, texts, number, arguments.seconds / 2))
                    found.append(asyncio.run(_asked(own, url, process, texts, number, arguments.seconds)))
                rounds[program].append(found)
    _print_table(rounds, [(kind, number) for kind, _, number in loads])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each number of clients in a round")
    parser.add_argument("--soak", type=float, default=0, help="seconds of full load, to lightrail alone")
    parser.add_argument("--onnx", action="store_true", help="compare PyTorch and onnxruntime in this process alone")
    return parser.parse_args()


def _prepare(folder: Path) -> list[str]:
    """Write the network, and a run of lightrail that has trained it for a step. Returns: texts to send."""
    import lightrail

    rows = [row.values for row in islice(mixed_reviews(), NUM_TEXTS)]
    write_data(rows, folder)
    write_network(rows, folder / "bert")
    settings = {
        "model": "TextClassifier",
        "model.encoder": {"class_path": "PretrainedConfig", "init_args": {"checkpoint": str(folder / "bert")}},
        "data": "TextClassificationData",
        "data.path": folder / "train.jsonl",
        "data.validation_path": folder / "rest.jsonl",
        "data.test_path": folder / "rest.jsonl",
        "data.tokenizer": folder / "bert",
        "data.max_length": MAX_LENGTH,
        "epochs": 1,
        "trainer.enable_progress_bar": False,
        "device": "cpu",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    run = lightrail.fit({}, settings)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    (folder / "run").write_text(run.run_id)
    (folder / "best.ckpt").symlink_to(run.directory / "checkpoints" / "best.ckpt")
    return [row["text"] for row in rows]


PIPELINE = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

classify = pipeline("text-classification", model=sys.argv[1], device="cpu")
app = FastAPI()


class Asked(BaseModel):
    text: str


@app.post("/predict")
def predict(asked: Asked) -> list[dict]:
    return classify(asked.text, truncation=True, max_length=int(sys.argv[2]), top_k=None)


uvicorn.run(app, port=int(sys.argv[3]), log_level="warning")
"""
PORT = 18473

PROGRAMS = {
    "lightrail serve": Program(
        lambda folder: [sys.executable, "-m", "lightrail", "serve", str(folder / "best.ckpt"), f"--port={PORT}"],
        "/predict",
        lambda text: {"text": text},
    ),
    "mlflow models serve": Program(
        lambda folder: [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager=local"),
            *(f"--model-uri=runs:/{(folder / 'run').read_text()}/model", f"--port={PORT}"),
        ],
        "/invocations",
        lambda text: {"dataframe_split": {"columns": ["text"], "data": [[text]]}},
    ),
    "pipeline behind FastAPI": Program(
        lambda folder: [sys.executable, "-c", PIPELINE, str(folder / "bert"), str(MAX_LENGTH), str(PORT)],
        "/predict",
        lambda text: {"text": text},
    ),
}


@contextmanager
def _served(program: Program, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server in the block, which begins when it answers."""
    url = f"http://127.0.0.1:{PORT}{program.path}"
    command = program.command(folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0) as process:
        psutil.Process(process.pid).cpu_affinity([CORES[0]])  # its threads and processes begin there, too
        try:
            asyncio.run(_until_it_answers(url, program.body("好"), process))
            yield url, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # MLflow's server is a process below
            process.wait()


async def _until_it_answers(url: str, body: dict[str, Any], process: "subprocess.Popen[bytes]") -> None:
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.post(url, json=body) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
    raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")


async def _asked(
    program: Program, url: str, process: psutil.Process, texts: Sequence[str], num_clients: int, seconds: float
) -> Measured:
    """Ask from several clients, each again as soon as it is answered."""
    bodies = [json.dumps(program.body(text)).encode() for text in texts]
    random.Random(0).shuffle(bodies)
    waiting, taken, failed = itertools.cycle(bodies), [], 0
    headers = {"content-type": "application/json"}
    started, before = time.perf_counter(), _core_seconds(process)

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        while (asked := time.perf_counter()) < started + seconds:
            async with session.post(url, data=next(waiting), headers=headers) as answer:
                await answer.read()
                failed += answer.status != 200
            taken.append(time.perf_counter() - asked)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(num_clients)))
    elapsed, core = time.perf_counter() - started, _core_seconds(process) - before
    cuts = statistics.quantiles(taken, n=100)
    return Measured(1000 * cuts[49], 1000 * cuts[98], len(taken) / elapsed, 1000 * core / len(taken), failed)


def _core_seconds(process: psutil.Process) -> float:
    """Return the seconds that a server and the processes below it have computed."""
    times = [own.cpu_times() for own in (process, *process.children(recursive=True))]
    return sum(own.user + own.system for own in times)


def _soak(folder: Path, texts: Sequence[str], seconds: float) -> None:
    """Ask from 32 clients for a long time, and print the memory at the begin and at the end."""
    program = PROGRAMS["lightrail serve"]
    with _served(program, folder) as (url, process):
        asyncio.run(_asked(program, url, process, texts, 32, min(60, seconds)))  # until all buffers have their sizes
        before = process.memory_info().rss
        measured = asyncio.run(_asked(program, url, process, texts, 32, seconds))
        after = process.memory_info().rss
    num_asked = round(measured.a_second * seconds)
    print(f"{seconds:.0f} s, 32 clients, {num_asked} requests, {measured.num_failed} lost or refused")
    print(f"memory {before / 2**20:.1f} MB at the begin, {after / 2**20:.1f} MB at the end")


def _compare_onnx(folder: Path, kinds: dict[str, list[str]]) -> None:
    """Print the time of the network alone, in turn in PyTorch and in onnxruntime, for the same token ids."""
    import onnxruntime
    import torch
    from tokenizers import Tokenizer

    import lightrail
    from lightrail.lightning_modules.conversion.protocols import OnnxTask
    from lightrail.project.exporting.writing import export
    from lightrail.project.models.stored_model import stored_model
    from lightrail.project.tracking.settings import TrackingConfig

    torch.set_num_threads(1)
    for name, quantize in (("onnx", False), ("int8", True)):
        export(stored_model(str(folder / "best.ckpt"), TrackingConfig()), folder / name, "onnx", quantize=quantize)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(folder / name / "model.onnx", options) for name in ("onnx", "int8")]
    names = [own.name for own in sessions[0].get_inputs()]
    task = lightrail.load(folder / "best.ckpt").task
    assert isinstance(task, OnnxTask)
    network = task.onnx_form(has_segments="token_type_ids" in names).network
    tokenizer = Tokenizer.from_file(str(folder / "onnx" / "tokenizer.json"))

    def in_torch(inputs: dict[str, Any]) -> None:
        with torch.inference_mode():
            network(*(torch.from_numpy(inputs[name]) for name in names))

    runs = [in_torch, *(lambda inputs, own=own: own.run(None, inputs) for own in sessions)]
    print(f"\n{'texts':14} {'batch':>5} {'PyTorch ms':>11} {'onnxruntime':>12} {'int8':>8} {'ratio':>7} {'int8':>7}")
    for (kind, texts), size in itertools.product(kinds.items(), (1, BATCH)):
        taken = _seconds_in_turn(
            runs, [_encoded(tokenizer, texts[at : at + size], names) for at in range(0, 320, size)]
        )
        middle = [1000 * statistics.median(own) for own in taken]
        each = f"{middle[0]:11.2f} {middle[1]:12.2f} {middle[2]:8.2f}"
        print(f"{kind:14} {size:5} {each} {middle[0] / middle[1]:7.2f} {middle[0] / middle[2]:7.2f}")


def _encoded(tokenizer: Any, texts: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    encoded = tokenizer.encode_batch(texts)
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(own, columns[name]) for own in encoded], np.int64) for name in names}


def _seconds_in_turn(runs: Sequence[Callable[[Any], object]], batches: Sequence[Any]) -> list[list[float]]:
    """Return the core's seconds of each run for each batch, after one turn that is not timed."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn, inputs in itertools.product(range(2 + 160 // len(batches)), batches):
        for run, own in zip(runs, taken, strict=True):
            started = time.process_time()
            run(inputs)
            if turn:
                own.append(time.process_time() - started)
    return taken


def _print_table(rounds: dict[str, list[list[Measured]]], loads: Sequence[tuple[str, int]]) -> None:
    print(f"\nmedian of {len(next(iter(rounds.values())))} rounds, one core\n")
    head = f"{'program':26} {'texts':14} {'clients':>7} {'p50 ms':>8} {'p99 ms':>8} {'requests/s':>11} {'core ms':>8}"
    print(f"{head} {'/ lightrail':>11} {'failed':>7}")
    first = next(iter(rounds))
    for place, (kind, num_clients) in enumerate(loads):
        reference = statistics.median(own[place].a_second for own in rounds[first])
        for program, own in rounds.items():
            each = [measured[place] for measured in own]
            p50, p99, a_second, core = (statistics.median(column) for column in list(zip(*each, strict=True))[:4])
            failed = sum(measured.num_failed for measured in each)
            line = f"{program:26} {kind:14} {num_clients:7} {p50:8.2f} {p99:8.2f} {a_second:11.0f} {core:8.2f}"
            print(f"{line} {a_second / reference:11.2f} {failed:7}")


if __name__ == "__main__":
    main()
