"""What a task states so that `lightrail export` can write it for other libraries, without knowing which task it is.

Shapes: N texts, T positions, D width, V tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class TransformersTask(Protocol):
    """A task with a counterpart in transformers, for `--format hf`.

    Its tokenizer is that of `KeepsTokenizer`, else the one that the data names.
    """

    transformers_class: str
    """The class of transformers that loads it, such as `AutoModelForCausalLM`."""

    def to_transformers(self) -> Any:
        """Return the model of transformers with the same weights, adapters merged into them.

        Raises: ConfigError when transformers has no such network.
        """

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which that model, and `logits`, read token ids, [1, T]."""

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the first output of the exported model, such as its logits, as this task computes it."""


@runtime_checkable
class KeepsTokenizer(Protocol):
    """A task that has the facts of a language tokenizer."""

    def tokenizer_facts(self) -> Mapping[str, Any]:
        """Return the facts that rebuild the tokenizer of the task's data."""


@runtime_checkable
class PipelineTask(Protocol):
    """A task whose exported model is used by a pipeline of transformers."""

    pipeline_tag: str
    """Name of the pipeline, and of the task on the Hugging Face hub."""
    pipeline_arguments: tuple[str, str]
    """Arguments with which the pipeline is built, and called, in the card."""
    pipeline_notes: Sequence[str]
    """Where the pipeline's predictions differ from ours, for the limits in the card."""


@dataclass(frozen=True)
class SentenceForm:
    """The vectors of texts as sentence-transformers computes them: pooled states of a network, or a table's mean."""

    pooling: Literal["mean", "cls", "max"]
    width: int
    """Size D of the vectors."""
    is_unit: bool
    """Whether vectors are divided by their length."""
    table: Tensor | None
    """The vector of each token id, [V, D], in place of a network; None: `to_transformers` returns the network."""


@runtime_checkable
class SentenceTask(TransformersTask, Protocol):
    """A task whose vectors sentence-transformers can compute."""

    def sentence_form(self) -> SentenceForm:
        """Return what its vectors are made by. Raises: ConfigError when sentence-transformers has no such thing."""


@dataclass(frozen=True)
class OnnxForm:
    """A network for ONNX, whose inputs and outputs are tensors with a batch in front."""

    network: nn.Module
    """Takes the inputs in their order, and returns one tensor."""
    inputs: Mapping[str, Tensor]
    """Inputs by name, of at least two rows; of token ids those of `PADDING` come last."""
    lengths: Sequence[str]
    """Inputs whose second dimension is a number of positions that may be any."""
    output: str
    """Name of the output."""


@runtime_checkable
class OnnxTask(Protocol):
    """A task whose network can be written as ONNX, for `--format onnx`."""

    def onnx_form(self, *, has_segments: bool) -> OnnxForm:
        """Return its network in evaluation mode.

        Args:
            has_segments: whether the data's tokenizer tells the two texts of a pair apart.

        Raises: ConfigError when it reads what is no tensor.
        """
