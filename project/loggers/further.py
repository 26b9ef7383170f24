"""The loggers of a run beside MLflow: built from settings, continued by a resumed run, shown figures and texts."""

import csv
import html
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import Configuration
from lightrail.project.loggers.guarded import GuardedLogger
from lightrail.project.tracking.logger import flatten
from lightrail.project.tracking.run import TrackedRun
from lightrail.project.tracking.settings import LoggerClass, TrackingConfig

CLASSES: dict[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "csv": CSVLogger}
_PACKAGES = {TensorBoardLogger: "tensorboard", WandbLogger: "wandb"}
_TEXTS = (".txt", ".csv", ".html")


def check_loggers(config: TrackingConfig) -> None:
    """Refuse loggers that cannot be used, or whose package is missing. Raises: ConfigError."""
    names = [_name(own) for own in config.loggers]
    for own, name in zip(config.loggers, names, strict=True):
        found = _class(own)
        if issubclass(found, MLFlowLogger):
            raise ConfigError(f"tracking.loggers: {name} is not needed: every run is logged to MLflow. Remove it.")
        package = next((package for kind, package in _PACKAGES.items() if issubclass(found, kind)), None)
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(f"tracking.loggers: {name} needs a package that is missing: pip install {package}.")
        if names.count(name) > 1:
            raise ConfigError(f"tracking.loggers: {name} is given twice, for the same files. Keep one.")


def further_loggers(configuration: Configuration, run: TrackedRun, step: int | None) -> list[GuardedLogger]:
    """Return the loggers of a run beside MLflow; none is built before it is used.

    Args:
        step: optimizer step from which the run is resumed; points of later ones are dropped where that is possible.
    """
    config, settings = configuration.tracking(), flatten(configuration.values)
    found = [
        GuardedLogger(_name(own), partial(_build, own, config, run.run_id, run.directory, step), settings)
        for own in config.loggers
    ]
    run.at_end += [*(own.close for own in found), partial(_upload, run)]
    return found


def _upload(run: TrackedRun) -> None:
    for path in sorted((run.directory / "loggers").glob("**/*")):
        if path.is_file():
            run.upload_soon(path.relative_to(run.directory).as_posix())


def _name(own: str | LoggerClass) -> str:
    return own if isinstance(own, str) else own.name


def _class(own: str | LoggerClass) -> type[Logger]:
    return CLASSES[own] if isinstance(own, str) else own.find()


def _build(own: str | LoggerClass, config: TrackingConfig, run_id: str, directory: Path, step: int | None) -> Logger:
    found: Any = _class(own)
    arguments = {} if isinstance(own, str) else dict(own.arguments)
    folder = directory / "loggers" / _name(own)
    if issubclass(found, WandbLogger):
        arguments["name"] = arguments.get("name") or config.run_name
        arguments["project"] = arguments.get("project") or config.experiment
        wandb: Logger = found(id=run_id, **arguments)  # with resume="allow"
        return wandb
    if issubclass(found, TensorBoardLogger):
        arguments |= {"name": "", "version": "", "default_hp_metric": False}
        if step is not None:
            arguments["purge_step"] = step + 1
    elif issubclass(found, CSVLogger):
        return _continued(found(folder, **arguments | {"name": "", "version": ""}), step)
    if "save_dir" in signature(found).parameters:
        arguments["save_dir"] = folder
    built: Logger = found(**arguments)
    return built


def _continued(logger: CSVLogger, step: int | None) -> CSVLogger:
    """Open a CSV file with the rows that it has up to a step; Lightning's logger (2.6) deletes them."""
    path = Path(logger.log_dir) / "metrics.csv"
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if step is None or int(row["step"] or 0) <= step]
            names = list(reader.fieldnames or ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that earlier files are deleted
        writer = logger.experiment
    if rows:
        writer.metrics_keys = names
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, names)
            out.writeheader()
            out.writerows(rows)
    return logger


def show_files(loggers: Iterable[Logger], directory: Path, step: int) -> None:
    """Show the figures and texts of a run, as they are among its artifacts, in the loggers that can."""
    files = {path.relative_to(directory).as_posix(): path for path in _shown(directory)}
    for own in loggers:
        if isinstance(own, GuardedLogger):
            own.use(partial(_show, files, step))


def _shown(directory: Path) -> Iterator[Path]:
    for folder in ("figures", "samples"):
        yield from sorted(own for own in directory.glob(f"{folder}/**/*") if own.suffix in (".png", *_TEXTS))


def _show(files: Mapping[str, Path], step: int, logger: Logger) -> None:
    show: Callable[[Logger, str, Path, int], None]
    if isinstance(logger, TensorBoardLogger):
        show = _show_in_tensorboard
    elif isinstance(logger, WandbLogger):
        show = _show_in_wandb
    else:
        return
    for name, path in files.items():
        show(logger, name, path, step)


def _show_in_tensorboard(logger: Any, name: str, path: Path, step: int) -> None:
    if path.suffix == ".png":
        with Image.open(path) as image:
            logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
    elif path.suffix != ".html":  # which it would show as its source
        logger.experiment.add_text(name, f"```\n{path.read_text('utf-8')}\n```", step)


def _show_in_wandb(logger: Any, name: str, path: Path, _step: int) -> None:
    import wandb

    text = "" if path.suffix == ".png" else path.read_text("utf-8")
    shown = text if path.suffix == ".html" else f"<pre>{html.escape(text)}</pre>"
    logger.experiment.log({name: wandb.Html(shown) if text else wandb.Image(str(path))})
