"""Writes what each shipped experiment and each shipped sweep comes to, as texts to compare later code with.

    python -m tests.golden.write

The text of an experiment names each parameter of its network with its shape and, at seed 0, its sum. The network has
the experiment's own settings; its vocabulary is that of tiny data, and a pretrained one is a
tiny GPT-2.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightrail.project.basics.catalogue import experiment_files, sweep_files
from lightrail.project.configuration import parse
from lightrail.project.configuration.yaml_file import write_text
from lightrail.project.running.build import build
from lightrail.sweeps.search.definition import load
from tests.support.guides import EVERY_SPLIT_HAS_ROWS, FILES, OF_THE_CHECKPOINT, QUIET, SMALL_DATA, class_name
from tests.support.tasks.causal_lm import write_gpt2

HERE = Path(__file__).parent
EXPERIMENTS, SWEEPS = HERE / "experiments", HERE / "sweeps"
COMMAND = "python -m tests.golden.write"
PARAMETERS = "# name, shape and sum of each parameter at seed 0, on tiny data\n"


def main() -> None:
    for target in (EXPERIMENTS, SWEEPS):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
    with TemporaryDirectory() as folder, tiny_data(Path(folder)):
        for name in experiment_files():
            (EXPERIMENTS / f"{name}.txt").write_text(experiment_text(name), encoding="utf-8")
    for name in sweep_files():
        (SWEEPS / f"{name}.txt").write_text(sweep_text(name), encoding="utf-8")
    sys.stdout.write(f"wrote {len(experiment_files())} experiments and {len(sweep_files())} sweeps to {HERE}\n")


@contextmanager
def tiny_data(folder: Path) -> Iterator[None]:
    """Work in a folder with what `experiment_text` builds networks for: no path of a machine gets into a text."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_gpt2(folder / "gpt")
    before, cache = Path.cwd(), os.environ.get("LIGHTRAIL_CACHE")
    os.chdir(folder)
    os.environ["LIGHTRAIL_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("LIGHTRAIL_CACHE")
        if cache is not None:
            os.environ["LIGHTRAIL_CACHE"] = cache


def experiment_text(name: str) -> str:
    """The configuration as `--print_config` gives it, and a line for each parameter. Call it within `tiny_data`."""
    configuration = parse(["--config", name])
    model = build(parse(["--config", name, *_on_tiny_data(configuration.values)]), "fit").model
    lines = [f"{name} {list(own.shape)} {_sum(own)}\n" for name, own in model.named_parameters()]
    return configuration.dump() + PARAMETERS + "".join(lines)


def sweep_text(name: str) -> str:
    """The definition, and the configuration that every trial starts from."""
    sweep = load(["--config", name])
    return f"{write_text(asdict(sweep.config))}# what a trial starts from\n{sweep.configuration({}).dump()}"


def _on_tiny_data(values: dict[str, Any]) -> list[str]:
    arguments = [*QUIET, *EVERY_SPLIT_HAS_ROWS]
    arguments += [f"--data.{setting}" for setting in SMALL_DATA[class_name(values["data"])]]
    if "PretrainedDecoderConfig" in str(values["model"]):
        arguments += ["--model.decoder.checkpoint=gpt", *OF_THE_CHECKPOINT]
    return arguments


def _sum(parameter: torch.Tensor) -> str:
    """To as many digits as any processor gives."""
    return f"{float(parameter.detach().double().sum()):.5g}"


if __name__ == "__main__":
    main()
