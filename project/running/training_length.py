"""The number of epochs where no setting says how long to train."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightrail.datamodules.base import DataModule
from lightrail.lightning_modules.networks.decoders.pretrained_decoder import PretrainedDecoderConfig
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.lightning_modules.networks.seq2seq.pretrained import PretrainedSeq2SeqConfig
from lightrail.project.configuration import Configuration
from lightrail.project.configuration.classes import import_class

EXAMPLES, FEWEST, MOST = 50_000, 2, 40
"""Examples that a network from scratch is trained with, and the limits of the epochs for it.

The best settings found by hand come to about as many on tables of several sizes (`benchmarks/published/`): 12 epochs of
5,200 TREC questions, 6 of 8,600 Chinese reviews. Small tables end after 40 epochs.
"""
PRETRAINED = 3
"""Epochs of fine-tuning, as Devlin et al. (2019), "BERT", recommend: 2 to 4."""


def num_epochs(configuration: Configuration, num_examples: int) -> int:
    """Return the number of epochs for a number of training examples."""
    if is_pretrained(configuration.values["model"]):
        return PRETRAINED
    return min(max(math.ceil(EXAMPLES / num_examples), FEWEST), MOST)


def is_pretrained(model: Mapping[str, Any]) -> bool:
    """Whether the settings of a model name a pretrained network."""
    kinds = (PretrainedConfig, PretrainedDecoderConfig, PretrainedSeq2SeqConfig)
    return any(issubclass(import_class(path), kinds) for path in _class_paths(model))


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield value["class_path"]
        for item in value.values():
            yield from _class_paths(item)


def with_length(configuration: Configuration, data: DataModule) -> Configuration:
    """Return the configuration with the number of epochs that is chosen where no setting says how long to train."""
    if configuration.has_length:
        return configuration
    data.setup("fit")
    num_examples = len(data.dataset("train"))
    number = num_epochs(configuration, num_examples)
    reason = f"trainer.max_epochs {number} for {num_examples:,} training examples"
    return configuration.of_length(number, reason)


def advice(configuration: Configuration, data: DataModule) -> str:
    """Return a line on a number of epochs that is small for a network from scratch; "" otherwise."""
    given, num_examples = configuration.values["trainer"]["max_epochs"], len(data.dataset("train"))
    advised = num_epochs(configuration, num_examples)
    if given is None or not 0 < given < advised / 2 or is_pretrained(configuration.values["model"]):
        return ""
    return (
        f"{given * num_examples:,} examples in all are few for a network from scratch: set trainer.max_epochs to "
        f"{advised}, or leave it out"
    )
