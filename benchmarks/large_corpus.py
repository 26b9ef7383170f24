"""Encoding time, memory and start-up time of `fit` on a text of a gigabyte.

The text repeats a real one, each time with its lines permuted and rotated, in paragraphs of about twenty lines.
`lightrail fit` runs as for users, with a tiny network: twice on the large text, and once on a small one for comparison.
Memory is that of all processes together, with shared pages counted once (PSS), sampled five times per second.
Run: python -m benchmarks.large_corpus --text FILE (about ten minutes on two cores)
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import psutil

from lightrail.datamodules.reading.lines import read_lines

STEPS = 20
LINES_PER_PARAGRAPH = 20
"""Average number of lines of a paragraph."""


@dataclass
class Fit:
    """Time and memory of one run."""

    seconds_to_encode: float
    """Seconds with worker processes, which encode."""
    seconds_to_first_step: float
    peak_bytes_encoding: int
    """Peak memory of all processes before the first step."""
    peak_bytes: int
    """Peak memory of all processes from the first step on."""


class FirstStep(pl.Callback):
    """Writes the time of the first step to a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, *args: object) -> None:
        if not self.path.exists():
            self.path.write_text(str(time.time()), encoding="utf-8")


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        large, small = folder / "large.txt", folder / "small.txt"
        size = _write_text(arguments.text, large, arguments.megabytes * 10**6)
        _write_text(arguments.text, small, 10**6)
        runs = {
            "small text": _fit(small, folder, arguments),
            "large text, first run": _fit(large, folder, arguments),
            "large text, second run": _fit(large, folder, arguments),
        }
    _print_table(runs, size, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="real text, plain or .gz")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", help="temporary folder for the text, the cache and the runs")
    parser.add_argument("--tokenizer", default="characters")
    parser.add_argument("--document", default="paragraph")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _write_text(source: Path, path: Path, size: int) -> int:
    """Write at least `size` bytes of text, and return their number."""
    lines = [line for line in read_lines(str(source)) if line.strip()]
    generator = random.Random(0)
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        for copy in itertools.count():
            order = generator.sample(lines, len(lines)) if copy else lines
            for line in order:
                turn = generator.randrange(len(line)) if copy else 0
                turned = f"{line[turn:]}{line[:turn]}\n" + "\n" * (generator.randrange(LINES_PER_PARAGRAPH) == 0)
                written += len(turned.encode())
                stream.write(turned)
                if written >= size:
                    return written
    return written


def _fit(text: Path, folder: Path, arguments: argparse.Namespace) -> Fit:
    mark = folder / "first_step"
    mark.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "LIGHTRAIL_CACHE": str(folder / "cache"),
        "LIGHTRAIL_ALLOW_MODULES": "benchmarks.large_corpus",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    launched = time.time()
    process = subprocess.Popen([sys.executable, "-m", "lightrail", *_command(text, mark, arguments)], env=environment)
    memory = _Memory(process.pid, mark)
    if process.wait():
        sys.exit(f"lightrail fit ended with status {process.returncode}")
    memory.stop()
    first_step = float(mark.read_text(encoding="utf-8")) - launched
    return Fit(memory.seconds_with_workers, first_step, memory.peak_before, memory.peak_after)


def _command(text: Path, mark: Path, arguments: argparse.Namespace) -> list[str]:
    decoder = "--model.decoder"
    return [
        "fit",
        *("--model", "lightrail.lightning_modules.causal_lm.CausalLM"),
        *(decoder, "lightrail.lightning_modules.networks.decoders.transformer_decoder.TransformerDecoderConfig"),
        *(f"{decoder}.width=64", f"{decoder}.depth=2", f"{decoder}.num_heads=2"),
        *("--data", "lightrail.datamodules.causal_lm.CausalLMData", f"--data.path={text}"),
        *(f"--data.tokenizer={arguments.tokenizer}", f"--data.document={arguments.document}"),
        *(f"--data.encoding_processes={arguments.processes}", "--data.split.drop_repeats=false"),
        *("--data.split.validation_fraction=0.001", "--data.split.test_fraction=0.001"),
        *("--trainer.accelerator=cpu", f"--trainer.max_steps={STEPS}", "--trainer.limit_val_batches=10"),
        *("--trainer.limit_test_batches=10", "--trainer.callbacks+=benchmarks.large_corpus.FirstStep"),
        f"--trainer.callbacks.path={mark}",
    ]


class _Memory:
    """Samples the memory of a process and its children."""

    def __init__(self, pid: int, mark: Path) -> None:
        self.process, self.mark = psutil.Process(pid), mark
        self.peak_before = self.peak_after = 0
        self.seconds_with_workers = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._is_over.wait(0.2):
            processes = _tree(self.process)
            total = sum(map(_resident, processes))
            now = time.monotonic()
            self.seconds_with_workers += (now - last) * (len(processes) > 1)
            last = now
            if self.mark.exists():
                self.peak_after = max(self.peak_after, total)
            else:
                self.peak_before = max(self.peak_before, total)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _print_table(runs: dict[str, Fit], size: int, arguments: argparse.Namespace) -> None:
    print(f"{size / 1e6:,.0f} MB, {arguments.tokenizer}, a document is a {arguments.document}, {STEPS} steps")
    print(f"{'':<24}{'to first step':>14}{'workers run':>14}{'peak before':>14}{'peak after':>14}")
    for name, fit in runs.items():
        memory = f"{fit.peak_bytes_encoding / 1e6:>11,.0f} MB{fit.peak_bytes / 1e6:>11,.0f} MB"
        print(f"{name:<24}{fit.seconds_to_first_step:>12.1f} s{fit.seconds_to_encode:>12.1f} s{memory}")
    first, second = runs["large text, first run"], runs["large text, second run"]
    encoding = first.seconds_to_first_step - second.seconds_to_first_step
    print(f"encoded in {encoding:.0f} s, {size / 1e6 / encoding:.1f} MB/s with {arguments.processes} processes")


if __name__ == "__main__":
    main()
