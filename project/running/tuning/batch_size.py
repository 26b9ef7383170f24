"""A batch-size finder: what fits into the memory of a GPU, or from where on a CPU gets no faster."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from lightrail.project.running.dry_run import TrainingStep
from lightrail.project.running.parts import Experiment

NUM_TIMED, SECONDS_TIMED = 2, 0.2
"""Steps timed of a size, at least; more, if these take less time, of which other programs may take a part."""
LEAST_GAIN = 1.05
"""Factor of the throughput below which twice as many examples count as no faster."""
MOST_TRIED = 2**16
ACCUMULATION = "trainer.accumulate_grad_batches"


@final
@dataclass(frozen=True)
class BatchSize:
    """The largest useful batch of a process, and the settings with it that keep the optimizer step."""

    most: int
    """Examples of a process, the longest ones; 0: not even one fits into memory."""
    positions: int
    """Positions of the longest example."""
    throughput: Mapping[int, float]
    """Examples per second by examples of a step, on a CPU; {} on a GPU, where memory decides."""
    settings: Mapping[str, int]
    """Limits of a batch over all processes, and the batches that a step accumulates; {} where nothing fits."""

    def render(self) -> str:
        """Format what was found, and the settings as options of the command line."""
        title, blank = f"{'batch size':13}", " " * 13
        if not self.most:
            return f"{title}not even one example of {self.positions:,} positions fits into memory"
        examples = f"{self.most:,} examples of {self.positions:,} positions, the longest"
        head = [f"{title}{examples}, fit into the memory of a process"]
        if self.throughput:
            is_growing = self.most == max(self.throughput)
            found = "still grows at" if is_growing else "stops growing at"
            rows = [f"{blank}{size:<12,}{rate:,.1f}" for size, rate in self.throughput.items()]
            head = [f"{title}on a CPU throughput {found} {examples}", f"{blank}examples    per second", *rows]
        options = " ".join(f"--{name} {value}" for name, value in self.settings.items())
        return "\n".join([*head, f"{blank}{options}: batches up to that size, and the same optimizer step"])


def find_batch_size(experiment: Experiment) -> BatchSize:
    """Train steps on the longest examples, ever more of them, with the model and the precision of the experiment.

    On a GPU the largest batch that fits is found by doubling and bisection. On a CPU, where memory is no hard limit,
    sizes double until throughput stops growing, at most to the examples of an optimizer step. The model of the
    experiment is trained by it; nothing is written.
    """
    release()
    trainer, limits = experiment.trainer, experiment.data.batch
    loader, step = experiment.data.train_dataloader(), TrainingStep(experiment.model, trainer)
    lengths = loader.sampler.positions()
    longest = np.argsort(-lengths, kind="stable")
    positions, num_processes = int(lengths[longest[0]]), trainer.num_devices * trainer.num_nodes
    given = {"data.batch.size": limits.size, "data.batch.max_tokens": limits.max_tokens}
    totals = {name: own * trainer.accumulate_grad_batches for name, own in given.items() if own is not None}

    def train(size: int) -> None:
        try:
            step(loader, longest[:size])
        finally:
            step.optimizer.zero_grad()  # half a backward pass leaves gradients

    throughput: dict[int, float] = {}
    if step.device.type == "cuda":
        most = largest_fitting(lambda size: fits(train, size), min(len(longest), MOST_TRIED))
    else:
        needed = math.ceil(examples_of(totals, positions) / num_processes)
        throughput = throughput_by_size(train, min(len(longest), needed))
        most = min(own for own, rate in throughput.items() if rate * LEAST_GAIN >= max(throughput.values()))
    settings = same_step(totals, positions, most * num_processes) if most else {}
    return BatchSize(most, positions, throughput, settings)


def largest_fitting(is_fitting: Callable[[int], bool], limit: int) -> int:
    """Return the largest size up to a limit that fits, by doubling and bisection; 0 if 1 does not fit."""
    low, high = 0, 1
    while high <= limit and is_fitting(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_fitting(middle) else (low, middle)
    return low


def fits(train: Callable[[int], Any], size: int) -> bool:
    """Whether a training step on `size` examples fits into the memory of the GPU, which is released after it."""
    try:
        train(size)
    except torch.OutOfMemoryError:
        return False
    finally:
        release()
    return True


def release() -> None:
    """Give memory that nothing refers to any more back to the device."""
    gc.collect()  # a traceback, or a trainer and its model, refer to themselves
    torch.cuda.empty_cache()


def throughput_by_size(train: Callable[[int], Any], limit: int) -> dict[int, float]:
    """Return the examples per second of sizes that double, until twice in a row they are no faster."""
    found: dict[int, float] = {}
    best, num_slow, size = 0.0, 0, 1
    while size <= limit and num_slow < 2:
        train(size)  # the first of a size allocates
        seconds: list[float] = []
        while len(seconds) < NUM_TIMED or sum(seconds) < SECONDS_TIMED:
            started = time.perf_counter()
            train(size)
            seconds.append(time.perf_counter() - started)
        found[size] = size / min(seconds)
        num_slow = 0 if found[size] > LEAST_GAIN * best else num_slow + 1
        best, size = max(best, found[size]), max(size + 1, min(size * 2, limit))
    return found


def examples_of(limits: Mapping[str, int], positions: int) -> int:
    """Return how many examples of that many positions these limits of size and tokens allow, at least 1."""
    by_limit = [own // positions if name.endswith("max_tokens") else own for name, own in limits.items()]
    return max(1, min(by_limit))


def same_step(totals: Mapping[str, int], positions: int, most: int) -> dict[str, int]:
    """Divide the limits of an optimizer step among as few batches as possible, none above `most` examples.

    >>> same_step({"data.batch.size": 96}, positions=10, most=40)
    {'data.batch.size': 32, 'trainer.accumulate_grad_batches': 3}
    """
    common = math.gcd(*totals.values())
    for number in (own for own in range(1, common + 1) if common % own == 0):
        limits = {name: total // number for name, total in totals.items()}
        if examples_of(limits, positions) <= most:
            break
    return {**limits, ACCUMULATION: number}
