"""Gives lightrail inputs that are damaged in every way, and counts how it ends: refused or worked, or not as it should.

Run: python -m benchmarks.fuzz --seconds 600 --seed 1; an input again: python -m benchmarks.fuzz --case data-1-17
"""

import argparse
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import benchmarks.fuzz.warm  # noqa: F401
from benchmarks.fuzz import base
from benchmarks.fuzz.cases import KINDS
from benchmarks.fuzz.outcomes import judge, running
from benchmarks.fuzz.sandbox import LOG, Limits, Sandbox
from benchmarks.fuzz.table import Result, Tally
from lightrail.project.basics.hardware import usable_cores
from lightrail.project.configuration.configuration import parse


def names(seed: int, kinds: Sequence[str]) -> Iterator[str]:
    """Yield the names of inputs without end: kind, seed and number. The name determines an input."""
    chance = random.Random(seed)
    weights = [KINDS[kind].weight for kind in kinds]
    number = 0
    while True:
        yield f"{chance.choices(kinds, weights)[0].replace(' ', '_')}-{seed}-{number}"
        number += 1


class Fuzzer:
    """Runs inputs in processes of their own, several at a time.

    Args:
        folder: holds `base`, the inputs in progress, and in `failures` those that did not end as they should.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.base = folder / "base"
        self._running: dict[str, Sandbox] = {}

    def prepare(self, kinds: Sequence[str]) -> None:
        """Make the parts of the base that these kinds need."""
        wanted = {part for kind in kinds for part in KINDS[kind].parts}
        for part in base.PARTS:
            if part in wanted:
                base.make(part, self.base)
        for file in sorted(self.base.glob("*.yaml")):
            if file.stem in base.TASKS:  # what describes the classes of settings is computed once, not in each process
                parse([f"--config={file}"]).trainer_arguments()
        gc.collect()
        gc.freeze()

    def run(self, inputs: Iterator[str], workers: int) -> Iterator[Result]:
        """Run inputs, and yield how each ended."""
        started: dict[str, float] = {}
        for name in inputs:
            started[name] = time.monotonic()
            self._start(name)
            while len(self._running) >= workers:
                yield from self._ended(started)
        while self._running:
            yield from self._ended(started)

    def _start(self, name: str) -> None:
        folder = self.folder / "inputs" / name
        for left in (folder, self.folder / "failures" / name):
            shutil.rmtree(left, ignore_errors=True)
        kind = KINDS[name.partition("-")[0].replace("_", " ")]

        def prepare() -> list[str]:
            return kind.make(random.Random(name))

        base.copy(self.base, folder, kind.parts)
        self._running[name] = Sandbox(folder, prepare, self.limits)

    def _ended(self, started: dict[str, float]) -> Iterator[Result]:
        time.sleep(0.002)
        for name, sandbox in list(self._running.items()):
            ended = sandbox.poll()
            if ended is None:
                continue
            del self._running[name]
            seconds = time.monotonic() - started.pop(name)
            result = Result(name, judge(sandbox.folder, ended, self.running_before), seconds, sandbox.folder)
            yield self._kept(result) if result.is_failure else result
            shutil.rmtree(sandbox.folder, ignore_errors=True)

    @property
    def running_before(self) -> set[str]:
        """Runs of the base that are RUNNING: the killed one."""
        return running(self.base)

    def _kept(self, result: Result) -> Result:
        target = self.folder / "failures" / result.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(result.folder, target)
        return Result(result.name, result.outcome, result.seconds, target)


def _until(inputs: Iterator[str], arguments: argparse.Namespace) -> Iterator[str]:
    deadline = time.monotonic() + arguments.seconds
    for number, name in enumerate(inputs):
        if time.monotonic() > deadline or number == arguments.inputs:
            return
        yield name


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(1)
    folder = Path(arguments.folder).absolute()
    fuzzer = Fuzzer(folder, Limits(seconds=arguments.timeout, waiting=10 * arguments.timeout))
    kinds = arguments.kinds or list(KINDS)
    if arguments.case:
        kinds = [arguments.case.partition("-")[0].replace("_", " ")]
    fuzzer.prepare(kinds)
    inputs = iter([arguments.case]) if arguments.case else _until(names(arguments.seed, kinds), arguments)
    tally = Tally()
    try:
        for result in fuzzer.run(inputs, arguments.workers):
            tally.add(result)
            if result.is_failure:
                print(result.line, flush=True)
    except KeyboardInterrupt:
        print("interrupted: what was tried until then")
    print(f"\n{tally.table()}\n\n{tally.findings()}")
    if arguments.case:
        print(
            f"\n{(result.folder / LOG).read_text('utf-8', errors='backslashreplace')[-3000:]}" if tally.failures else ""
        )
    return int(bool(tally.failures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=600.0, help="start no input later than this")
    parser.add_argument(
        "--inputs", type=int, default=-1, help="number of inputs; default: as many as there is time for"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="repeat one input, named as in the lines of failures")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS))
    parser.add_argument("--workers", type=int, default=usable_cores(), help="inputs at a time")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of processor time of an input")
    parser.add_argument("--folder", default=f"{tempfile.gettempdir()}/lightrail-fuzz-{os.getuid()}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
