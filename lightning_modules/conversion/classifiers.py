"""Classifiers and taggers of ours as those of transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightrail.lightning_modules.networks.encoders.encoder import Encoder
from lightrail.lightning_modules.networks.encoders.pooling import FirstPooling, Pooling
from lightrail.lightning_modules.networks.encoders.pretrained import (
    PretrainedEncoder,
    PretrainedPooling,
    joined,
    last_linear,
    set_layer,
)
from lightrail.lightning_modules.networks.loading import from_architecture
from lightrail.project.basics.errors import ConfigError, first_line, shown

_OTHERS = "Use --format safetensors or onnx"


def to_classifier(encoder: Encoder, pooling: Pooling, linear: nn.Linear, labels: Sequence[str], *, many: bool) -> Any:
    """Return a classifier of texts as `AutoModelForSequenceClassification` reads it.

    Args:
        linear: from a text's vector to the logits of the labels.
        many: whether a text may have several labels.

    Raises: ConfigError when transformers has no such classifier.
    """
    model = _of_pooling(refuse_own(encoder), pooling, linear)
    name_labels(model.config, labels)
    model.config.problem_type = "multi_label_classification" if many else "single_label_classification"
    return model


def _of_pooling(encoder: PretrainedEncoder, pooling: Pooling, linear: nn.Linear) -> Any:
    if isinstance(pooling, PretrainedPooling):
        return pooling.to_transformers(encoder, linear)
    model = _of_first(encoder, linear) if isinstance(pooling, FirstPooling) else None
    if model is None:
        raise ConfigError(
            f"--format hf: the classifiers of transformers pool the states of {encoder.model.config.model_type} by "
            f"layers of their own, which {type(pooling).__name__} lacks. Train with --model.pooling=pretrained, whose "
            f"layers these are. {_OTHERS} for this run."
        )
    return model


@torch.no_grad()
def _of_first(encoder: PretrainedEncoder, linear: nn.Linear) -> Any:
    """Return a classifier that is linear in the first state; None where its architecture has none.

    A layer with ReLU or GELU f of twice as many numbers as there are labels is linear: f(x) - f(-x) = x.
    """
    import transformers

    num_labels, width = linear.weight.shape
    with torch.random.fork_rng(devices=[]):
        auto = transformers.AutoModelForSequenceClassification
        whole = from_architecture(auto, _architecture(encoder)).eval()
    try:
        pooling, _ = PretrainedPooling.of(whole)
    except ValueError:
        return None
    layers = [part for part in pooling.modules() if isinstance(part, nn.Linear) and part.bias is not None]
    if len(layers) != 1 or layers[0].weight.shape != (width, width) or 2 * num_labels > width:
        return None
    hidden, last = layers[0], nn.Linear(width, num_labels)
    for weight in (*hidden.parameters(), *last.parameters()):
        weight.zero_()
    for start, sign in ((0, 1), (num_labels, -1)):
        hidden.weight[start : start + num_labels] = sign * linear.weight
        hidden.bias[start : start + num_labels] = sign * linear.bias
        last.weight[:, start : start + num_labels] = sign * torch.eye(num_labels)
    states = torch.randn(4, 3, width, generator=torch.Generator().manual_seed(0))
    found = last(pooling.eval()(states, torch.ones(4, 3, dtype=torch.bool)))
    if not torch.allclose(found, linear(states[:, 0]), rtol=1e-4, atol=1e-5):
        return None
    return pooling.to_transformers(encoder, last)


def to_tagger(encoder: Encoder, linear: nn.Linear, tags: Sequence[str]) -> Any:
    """Return a tagger of tokens as `AutoModelForTokenClassification` reads it.

    Args:
        linear: from a token's state to the logits of the tags.

    Raises: ConfigError when transformers has no such tagger.
    """
    import transformers

    own = refuse_own(encoder)
    architecture = {**_architecture(own), "num_labels": len(tags)}
    kind = shown(own.model.config.model_type)
    try:
        with torch.random.fork_rng(devices=[]):
            head = from_architecture(transformers.AutoModelForTokenClassification, architecture).eval()
        last, _ = last_linear(head)
    except ValueError as error:
        raise ConfigError(
            f"--format hf: transformers has no tagger of type {kind}: {first_line(error)}. {_OTHERS}."
        ) from error
    if further := [name for name, _ in head.named_parameters() if not name.startswith((head.base_model_prefix, last))]:
        raise ConfigError(
            f"--format hf: the tagger of type {kind} in transformers has further layers ({further[0]}), which ours "
            f"lacks. {_OTHERS}."
        )
    model = joined(head, own)
    set_layer(model, last, linear)
    name_labels(model.config, tags)
    return model


def refuse_own(encoder: Encoder) -> PretrainedEncoder:
    """Return a pretrained encoder. Raises: ConfigError for one of our own, which transformers has not."""
    if not isinstance(encoder, PretrainedEncoder):
        raise ConfigError(
            f"--format hf: transformers has no {type(encoder).__name__}, which is a network of lightrail. {_OTHERS}, "
            "or train with --model.encoder=PretrainedConfig."
        )
    return encoder


def divided(linear: nn.Linear, temperature: torch.Tensor) -> nn.Linear:
    """Return a copy of a linear layer whose outputs are divided by a temperature."""
    copy = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        copy.weight.copy_(linear.weight / temperature)
        copy.bias.copy_(linear.bias / temperature)
    return copy


def _architecture(encoder: PretrainedEncoder) -> dict[str, Any]:
    """Return the settings of a network, without the labels of an earlier head."""
    settings = encoder.model.config.to_diff_dict()
    return {name: own for name, own in settings.items() if name not in ("id2label", "label2id", "num_labels")}


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Set the labels of a configuration of transformers."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in reversed([*enumerate(labels)])}
