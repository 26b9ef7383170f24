"""Programs that convert pinyin: those of Debian packages, by drivers that are compiled here, and runs of lightrail."""

import shutil
import statistics
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from benchmarks.pinyin.corpora import parts
from lightrail.project.serving.limits import Limits
from lightrail.project.serving.loading import load_served
from lightrail.project.tracking.settings import TrackingConfig

NUM_ALONE = 100
"""Sentences that lightrail converts one by one for the time of one alone; the other engines always do so."""
_LIMITS = Limits(max_batch=512, max_positions=16_384)


class SkippedError(Exception):
    """An engine cannot be used here, and why."""


@dataclass(frozen=True)
class Converted:
    """Sentences that an engine found, and the processor's time for them."""

    sentences: list[str]
    seconds: float
    """For all of them together."""
    ms_alone: float
    """Milliseconds for one sentence by itself, the median."""


class Engine(ABC):
    """A program that converts pinyin."""

    @abstractmethod
    def convert(self, typed: Sequence[str]) -> Converted:
        """Convert sentences, see `Corpus.typed`."""


@final
class DriverEngine(Engine):
    """A library, called by a driver that converts each line of its input.

    Args:
        name: of the driver's source in this folder.
        packages: Debian packages that it needs.
        flags: of the compiler, besides what pkg-config says of a library of this name.
        arguments: of the driver.
        folder: for the program that is compiled.

    Raises: SkippedError.
    """

    def __init__(self, name: str, packages: str, flags: Sequence[str], arguments: Sequence[str], folder: Path) -> None:
        if shutil.which("g++") is None:
            raise SkippedError("there is no g++")
        source, program = Path(__file__).with_name(f"{name}.cpp"), folder / name
        command = ["g++", "-O2", "-std=c++17", str(source), "-o", str(program), *flags]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode:
            [problem, *_] = [line for line in compiled.stderr.splitlines() if "error" in line] or [compiled.stderr]
            raise SkippedError(f"{problem.strip()}; install {packages}")
        self._command = [str(program), *arguments]

    def convert(self, typed: Sequence[str]) -> Converted:
        divided = [parts(own) for own in typed]
        lines = [text for own in divided for text, is_pinyin in own if is_pinyin]
        given = "".join(f"{line}\n" for line in lines)
        ended = subprocess.run(self._command, input=given, capture_output=True, text=True, check=False)
        answers = iter(ended.stdout.splitlines())
        if ended.returncode or ended.stdout.count("\n") != len(lines):
            raise SkippedError(f"{Path(self._command[0]).name} ended with {ended.returncode}: {ended.stderr[-300:]}")
        sentences, microseconds = [], []
        for own in divided:
            answered = [next(answers).split("\t") if is_pinyin else (text, "0") for text, is_pinyin in own]
            sentences.append("".join(text for text, _ in answered))
            microseconds.append(sum(int(time_taken) for _, time_taken in answered))
        return Converted(sentences, sum(microseconds) / 1e6, statistics.median(microseconds) / 1e3)


@final
class LightrailEngine(Engine):
    """A run or a checkpoint of lightrail, predicted in this process as `lightrail serve` does.

    Args:
        name: any that `lightrail predict` takes.
    """

    def __init__(self, name: str) -> None:
        served = load_served(name, TrackingConfig(), _LIMITS, torch.device("cpu"), "32-true")
        if served.engine is None:
            raise SkippedError(f"{served.task} converts no pinyin")
        self._engine = served.engine
        [self._column] = self._engine.data.columns("predict")

    def convert(self, typed: Sequence[str]) -> Converted:
        alone = []
        for own in typed[:NUM_ALONE]:
            started = time.process_time()
            self._predicted([own])
            alone.append(time.process_time() - started)
        started = time.process_time()
        sentences = self._predicted(typed)
        return Converted(sentences, time.process_time() - started, statistics.median(alone) * 1e3)

    def _predicted(self, typed: Sequence[str]) -> list[str]:
        rows = self._engine.encode([{str(self._column): own} for own in typed])
        [found] = self._engine.predict([rows])
        return [row["prediction"] for row in found]


def libime(folder: Path) -> Engine:
    """Return the engine of fcitx5. Raises: SkippedError."""
    includes = ("-I/usr/include/LibIME", "-I/usr/include/Fcitx5/Utils")
    return DriverEngine(
        "libime",
        "libimecore-dev libimepinyin-dev libfcitx5utils-dev libboost-dev libime-data libime-data-language-model",
        [*includes, "-lIMEPinyin", "-lIMECore", "-lFcitx5Utils"],
        ["/usr/share/libime/sc.dict"],
        folder,
    )


def libpinyin(folder: Path) -> Engine:
    """Return the engine of ibus. Raises: SkippedError."""
    packages = "pkg-config libpinyin15-dev libpinyin-data"
    if shutil.which("pkg-config") is None:
        raise SkippedError(f"there is no pkg-config; install {packages}")
    flags, library = (
        subprocess.run(["pkg-config", *own, "libpinyin"], capture_output=True, text=True, check=False).stdout.split()
        for own in (("--cflags", "--libs"), ("--variable=libdir",))
    )
    data = Path(*library) / "libpinyin" / "data"
    return DriverEngine("libpinyin", packages, flags, [str(data), str(folder)], folder)
