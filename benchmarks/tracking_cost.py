"""Cost of tracking per training step: none, lightrail's, and Lightning's own MLFlowLogger, both into SQLite.

One program trains the same network with each, alternately, in several rounds; the result is the ratio of the medians.
Times of whole steps vary over minutes by more than tracking costs. So the cost is measured directly as well: the
seconds that the training thread spends in the logger, and the processor time of the other threads.
Run: python -m benchmarks.tracking_cost (about ten minutes on two cores)
"""

import argparse
import logging
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightrail.project.basics.hardware import fastest_precision, set_threads, usable_accelerator
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.training.system_metrics import SystemMetrics

WIDTH, DEPTH, NUM_HEADS, VOCABULARY = 256, 6, 8, 4000
BATCH_SIZE, NUM_TOKENS = 16, 64
WARM_UP_STEPS = 5
OWN_THREADS = ("metrics of run", "system metrics")


@dataclass(frozen=True)
class Cost:
    """Average costs per step, in seconds."""

    step: float
    calls: float
    """Time of the training thread in the logger."""
    threads: float
    """Processor time of the threads that send and measure."""


class Encoder(LightningModule):
    """A network that predicts each token of random texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, NUM_HEADS, 4 * WIDTH, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        scores = self.head(self.encoder(self.embedding(batch[0])))  # [B, T, V]
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch[0].flatten())
        self.log_dict({"train/loss": loss, "lr": 1e-3})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)


class Clock(Callback):
    """Times the steps, the calls of the logger, and the other threads."""

    def __init__(self, logger: Logger | None) -> None:
        self.calls = 0.0
        self.cost = Cost(0.0, 0.0, 0.0)
        for name in ("log_metrics", "save") if logger is not None else ():
            setattr(logger, name, self._timed(getattr(logger, name)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM_UP_STEPS:
            self.calls, self._threads, self._began = 0.0, _seconds_of_threads(), time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = (time.perf_counter() - self._began, self.calls, _seconds_of_threads() - self._threads)
        self.cost = Cost(*(each / (trainer.global_step - WARM_UP_STEPS) for each in seconds))

    def _timed(self, call: Callable[..., None]) -> Callable[..., None]:
        def timed(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            call(*args, **kwargs)
            self.calls += time.perf_counter() - began

        return timed


def main() -> None:
    arguments = _arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    set_threads()
    with tempfile.TemporaryDirectory() as name:
        programs = _programs(f"sqlite:///{name}/mlflow.db", Path(name), arguments.steps)
        programs["no tracking"]()  # warm-up, not timed
        rounds = [{program: run() for program, run in programs.items()} for _ in range(arguments.rounds)]
    _print_table({program: [each[program] for each in rounds] for program in programs}, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=105, help=f"the first {WARM_UP_STEPS} do not count")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _programs(uri: str, folder: Path, num_steps: int) -> dict[str, Callable[[], Cost]]:
    train = partial(_train, folder, num_steps)
    return {
        "no tracking": lambda: train(None, 50),
        **{f"lightrail, every {every}": partial(_with_lightrail, train, uri, every) for every in (50, 1)},
        **{
            f"MLFlowLogger, every {every}": partial(lambda every: train(MLFlowLogger(tracking_uri=uri), every), every)
            for every in (50, 1)
        },
    }


def _with_lightrail(train: Callable[..., Cost], uri: str, every: int) -> Cost:
    run = start_run(TrackingConfig(uri=uri), {}, {})
    return train(run.logger, every, run.status(), SystemMetrics())


def _train(
    folder: Path,
    num_steps: int,
    logger: Logger | None,
    every: int,
    status: AbstractContextManager[None] | None = None,
    *callbacks: Callback,
) -> Cost:
    torch.manual_seed(0)
    texts = TensorDataset(torch.randint(VOCABULARY, (BATCH_SIZE * num_steps, NUM_TOKENS)))
    clock, accelerator = Clock(logger), usable_accelerator("auto")
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=fastest_precision(accelerator),
        max_steps=num_steps,
        logger=logger or False,
        log_every_n_steps=every,
        callbacks=[clock, *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with status or nullcontext():
        trainer.fit(Encoder(), DataLoader(texts, batch_size=BATCH_SIZE))
    return clock.cost


def _seconds_of_threads() -> float:
    own = [thread.ident for thread in threading.enumerate() if thread.name.startswith(OWN_THREADS)]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in own if ident is not None)


def _print_table(costs: dict[str, list[Cost]], arguments: argparse.Namespace) -> None:
    steps = {program: statistics.median(cost.step for cost in own) for program, own in costs.items()}
    plain = steps["no tracking"]
    print(f"\n{DEPTH} layers of width {WIDTH}, {BATCH_SIZE} x {NUM_TOKENS} tokens, {torch.get_num_threads()} threads")
    print(f"median of {arguments.rounds} rounds of {arguments.steps - WARM_UP_STEPS} steps\n")
    print(f"{'program':24}{'ms/step':>9}{'/ none':>8}{'calls µs':>10}{'threads µs':>12}{'direct cost':>13}")
    for program, own in costs.items():
        calls = statistics.median(cost.calls for cost in own)
        threads = statistics.median(cost.threads for cost in own)
        print(
            f"{program:24}{1e3 * steps[program]:9.1f}{steps[program] / plain:8.3f}{1e6 * calls:10.0f}"
            f"{1e6 * threads:12.0f}{(calls + threads) / plain:13.2%}"
        )


if __name__ == "__main__":
    main()
