"""The README.md of an exported model, as the Hugging Face hub reads it: what it is, how to use it, results, origin."""

import importlib.metadata
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.checkpoint import stored_configuration
from lightrail.lightning_modules.networks.decoders.generation import TextResponder, TextWriter
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.reading import reading
from lightrail.project.basics.tables import literal, markdown_table
from lightrail.project.comparing.entries import find_entry
from lightrail.project.comparing.measuring import CONFIDENCE, NUM_RESAMPLES, Estimate, measure
from lightrail.project.configuration.classes import import_class
from lightrail.project.models.stored_model import StoredModel
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import open_store, store_uri

LOAD_TASK = """\
import lightrail

model = lightrail.load("{folder}")
print(model{call})"""


@dataclass(frozen=True)
class OtherLibrary:
    """How a folder that was written for another library is used."""

    library: str
    """Its name on the hub."""
    code: str
    """In Python, with `{folder}` for the folder's name."""
    limits: Sequence[str] = ()
    """Where its predictions differ from ours."""
    is_local: bool = False
    """Whether the code reads files of the folder, so that it has to be on this machine."""


NUM_LABELS = 100
"""Maximum number of labels in a card."""


@runtime_checkable
class OnTheHub(Protocol):
    """A task that the Hugging Face hub has a name for."""

    pipeline_tag: str


def estimates_of(model: StoredModel, tracking: TrackingConfig) -> dict[str, Estimate]:
    """Return the test metrics of a model's run with intervals, by name; {} without stored predictions."""
    if not model.run_id:
        return {}
    try:
        (run,) = find_entry(open_store(store_uri(tracking), create=False), f"runs:/{model.run_id}").runs
    except ConfigError:  # another store, or a run that was not tested
        return {}
    return {name: own[0] for name, own in measure([[run.columns]], run.scores).estimates.items()}


def model_card(
    model: StoredModel,
    task: TaskModule,
    folder: str,
    other: OtherLibrary | None,
    estimates: Mapping[str, Estimate] | None = None,
    repository: str | None = None,
) -> str:
    """Write the card of a model.

    Args:
        task: the restored task.
        folder: name of the folder of the card.
        other: how the folder is used, when it is one for another library.
        repository: the name of the folder on the hub, None where it is not there.
        estimates: test metrics with intervals; those of the model's run are shown without.
    """
    from huggingface_hub import ModelCard

    found = dict(estimates or {})
    for name, value in model.metrics.items():
        found.setdefault(name.removeprefix("test/"), Estimate(value, math.nan, math.nan, None))
    found = {name: own for name, own in sorted(found.items()) if math.isfinite(own.value)}
    configuration = stored_configuration(model.checkpoint, model.name)
    lines = [
        f"# {literal(f'{type(task).__name__} {model.run_name}')}",
        "",
        str(inspect.getdoc(type(task))).partition("\n")[0],
        *_labels(task),
        *_use(task, configuration, folder, other, repository),
        *_results(found),
        *_origin(model, configuration),
        *_limits(task, configuration, other),
    ]
    header = _metadata(model, task, configuration, folder, found, other.library if other else "lightrail")
    return str(ModelCard(f"---\n{header}\n---\n\n" + "\n".join(lines) + "\n"))


def _metadata(
    model: StoredModel,
    task: TaskModule,
    configuration: Mapping[str, Any],
    folder: str,
    found: Mapping[str, Estimate],
    library: str,
) -> str:
    """Return the metadata that the hub reads, with a `model-index`, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    tag = task.pipeline_tag if isinstance(task, OnTheHub) else None
    data = configuration["data"]["init_args"]
    source = _public(data.get("test_path") or data.get("path"))
    results = [
        EvalResult(
            task_type=tag or "other",
            dataset_type=source.removeprefix("hub:"),
            dataset_name=source,
            dataset_split="test",
            dataset_args=_known(digest=model.tags.get("lightrail.test_digest")),
            metric_type=name,
            metric_name=name,
            metric_value=own.value,
            metric_args=_interval(own),
        )
        for name, own in found.items()
    ]
    base = _base(configuration)
    card = ModelCardData(
        library_name=library,
        pipeline_tag=tag,
        tags=["lightrail", "pytorch-lightning"],
        base_model=base if base and "/" in base and not Path(base).exists() else None,
        datasets=[source.removeprefix("hub:")] if source.startswith("hub:") else None,
        model_name=(model.run_name or folder) if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml()).rstrip()


def _labels(task: TaskModule) -> Iterator[str]:
    labels = task.data_facts().get("labels")
    if isinstance(labels, list) and labels:
        shown = ", ".join(f"`{literal(str(own))}`" for own in labels[:NUM_LABELS])
        yield from ("", f"Labels ({len(labels)}): {shown}{', ...' if len(labels) > NUM_LABELS else ''}")


def _use(
    task: TaskModule,
    configuration: Mapping[str, Any],
    folder: str,
    other: OtherLibrary | None,
    repository: str | None,
) -> Iterator[str]:
    """Yield how to use the model: in Python, on the command line, and as a server."""
    yield from ("", "## Use", "")
    if repository is not None and (other is None or other.is_local):
        folder = repository.partition("/")[2]
        yield from ("```", f"hf download {repository} --local-dir {folder}", "```", "")
    elif repository is not None:
        folder = repository
    writes = isinstance(task, TextWriter | TextResponder)
    if other is not None:
        code = other.code.replace("{folder}", folder)
    else:
        code = LOAD_TASK.format(folder=folder, call='.generate("TEXT")' if writes else _call(configuration["data"]))
    yield from ("```python", code, "```", "")
    is_here = other is None or repository is None
    commands = [f"lightrail generate {folder} --prompt TEXT"] if writes and is_here else []
    if other is None:
        commands += [f"lightrail predict {folder} --data.path FILE", f"lightrail serve {folder}"]
    if commands:
        yield from ("```", *commands, "```")


def _call(data: Mapping[str, Any]) -> str:
    """Return the arguments of a prediction: a text, or a row of the columns that the data needs."""
    settings, path = data["init_args"], str(data["class_path"])
    with reading(f"the data {shown(path)} cannot be imported", "Use the version that wrote it."):
        reader = import_class(path) if path.startswith("lightrail.datamodules.") else None  # a file may name any class
    if reader is not None and issubclass(reader, DataModule) and reader.optional:
        return f"([{json.dumps({reader.optional[0]: 'FILE'})}])"
    names = [settings[name] for name in ("text_column", "pair_column") if settings.get(name)]
    return f"([{json.dumps(dict.fromkeys(names, 'TEXT'))}])" if len(names) > 1 else '("TEXT")'


def _results(found: Mapping[str, Estimate]) -> Iterator[str]:
    if found:
        rows = [
            [literal(name), f"{own.value:.6g}", _shown(own.low, own.high) if _interval(own) else ""]
            for name, own in found.items()
        ]
        yield from ("", "## Results", "", markdown_table(["test metric", "value", f"{CONFIDENCE:.0%} interval"], rows))


def _origin(model: StoredModel, configuration: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Training", "")
    if base := _base(configuration):
        yield f"- fine-tuned from {literal(_public(base))}"
    digest = model.tags.get("lightrail.data_digest")
    path = literal(_public(configuration["data"]["init_args"].get("path")))
    yield f"- data: {path}{f', digest {literal(digest)}' if digest else ''}"
    if model.run_id:
        revision = model.tags.get("lightrail.git_sha")
        yield f"- run {literal(model.run_id)}{f', code at {literal(revision)}' if revision else ''}"
    seed = configuration.get("seed_everything", 0)
    yield f"- written by lightrail {importlib.metadata.version('lightrail')}, seed {seed}"


def _limits(task: TaskModule, configuration: Mapping[str, Any], other: OtherLibrary | None = None) -> Iterator[str]:
    yield from ("", "## Limits", "")
    yield from (f"- {own}" for own in (other.limits if other else ()))
    if task.data_facts().get("labels"):
        yield "- It gives nothing but the labels above, to whatever it reads."
    data = configuration["data"]["init_args"]
    if data.get("max_length"):
        rest = ", and the rest is not read" if data.get("truncation") in ("head", "tail", "head_tail") else ""
        yield f"- Texts are read up to a length of {data['max_length']}{rest}."
    yield "- Its results are those on its own test data; on other data they may be worse."
    yield "- Nobody has examined what biases it has learned from its data."


def _base(configuration: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that the network was fine-tuned from, None for one that was trained from scratch."""
    for name in ("decoder", "encoder", "network"):
        network = configuration["model"]["init_args"].get(name)
        base = dict(network.get("init_args") or {}).get("checkpoint") if isinstance(network, dict) else None
        if isinstance(base, str):
            return base
    return None


def _interval(own: Estimate) -> dict[str, Any] | None:
    """Return the interval of a metric as arguments of its `model-index`, None without one."""
    if not (math.isfinite(own.low) and math.isfinite(own.high)):
        return None
    return {"confidence": CONFIDENCE, "low": own.low, "high": own.high, "bootstrap_resamples": NUM_RESAMPLES}


def _shown(*ends: float) -> str:
    return f"{ends[0]:.6g} to {ends[1]:.6g}"


def _known(**values: Any) -> dict[str, Any] | None:
    return {name: own for name, own in values.items() if own} or None


def _public(source: object) -> str:
    """Return a hub name or `embedded:NAME` unchanged, and the last part of a path, since a card is published."""
    text = str(source)
    return Path(text).name if Path(text).is_absolute() or Path(text).exists() else text
