"""Sentence embeddings.

Shapes: B examples, P texts of each (text, pair, hard negative), T positions, D width.
"""

from contextlib import nullcontext
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.conversion.classifiers import refuse_own
from lightrail.lightning_modules.conversion.onnx_forms import text_form
from lightrail.lightning_modules.conversion.protocols import OnnxForm, SentenceForm
from lightrail.lightning_modules.heads.contrast_head import ContrastHead, Similarity
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig
from lightrail.lightning_modules.networks.encoders.pooling import (
    FirstPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    PoolingName,
    build_pooling,
)
from lightrail.lightning_modules.networks.encoders.pretrained import copied
from lightrail.lightning_modules.networks.encoders.row_dropout import RowDropout
from lightrail.lightning_modules.networks.encoders.static import StaticConfig, StaticEncoder
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import Positive
from lightrail.project.basics.errors import ConfigError


@final
class SentenceEncoder(TaskModule):
    """Gives each text a vector, such that texts that mean the same have similar ones.

    Dropout is a function of seed, epoch and text, so that a step has the same masks however it is divided; in a network
    that is compiled, or draws random numbers inside of an LSTM, it is a function of the batch.

    Args:
        vocabulary: the tokens of a network from scratch, empty with a pretrained tokenizer; from the data.
        has_scores: whether evaluation pairs have scores; from the data.
        encoder: the network that reads the text.
        pooling: how a text's vector is made of its positions': `mean`, `first`, `max` or `attention`.
        similarity: `cosine` of vectors, which are then of length 1, or their `dot` product.
        temperature: divides similarities in the loss, above 0.
        is_symmetric: whether the first text is also to be found by the second one, among all first ones.
    """

    pipeline_tag = "sentence-similarity"
    transformers_class = "AutoModel"
    input_columns = ("text", "pair", "negative")

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        has_scores: FromData[bool],
        *,
        encoder: EncoderConfig = StaticConfig(),
        pooling: PoolingName = "mean",
        similarity: Similarity = "cosine",
        temperature: Positive = 0.05,
        is_symmetric: bool = False,
        optim: OptimConfig = OptimConfig(),
    ) -> None:
        super().__init__(optim)
        network = encoder.build(vocabulary)
        self.save_hyperparameters()
        self.hparams["encoder"] = network.config
        self.monitor = "val/spearman" if has_scores else "val/mrr"
        self.is_unit = similarity == "cosine"
        self.encoder, self.pooling = network, build_pooling(pooling, network.width)
        self.head = ContrastHead(temperature=temperature, is_symmetric=is_symmetric, has_scores=has_scores)

    def forward(self, batch: Batch) -> Tensor:
        """Embed the texts of a batch, [P * B, T] to [B, P, D]."""
        is_by_row = self.training and not self.encoder.config.is_compiled
        with RowDropout(batch["draws"]) if is_by_row else nullcontext():
            vectors = self.vectors(batch["input_ids"], batch["attention_mask"])  # [P * B, D]
        return vectors.view(-1, len(batch["id"]), vectors.shape[-1]).transpose(0, 1)

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts, [N, T] to [N, D]."""
        is_token = attention_mask.bool()
        vectors = at_least_float32(self.pooling(self.encoder(input_ids, is_token), is_token))  # [N, D]
        return F.normalize(vectors, dim=-1) if self.is_unit else vectors

    def sentence_form(self) -> SentenceForm:
        """Return what makes the vectors. Raises: ConfigError for what sentence-transformers has no module for."""
        names: dict[type[Pooling], Literal["mean", "cls", "max"]] = {
            MeanPooling: "mean",
            FirstPooling: "cls",
            MaxPooling: "max",
        }
        name = names.get(type(self.pooling))
        is_table = isinstance(self.encoder, StaticEncoder)
        if name is None or (is_table and name != "mean"):
            kind = "a table of vectors" if is_table else "a network"
            raise ConfigError(
                f"--format hf: sentence-transformers has no {type(self.pooling).__name__} of {kind}. Use --format "
                "safetensors, or train with --model.pooling=mean."
            )
        return SentenceForm(
            name,
            self.encoder.width,
            self.is_unit,
            self.encoder.table() if isinstance(self.encoder, StaticEncoder) else None,
        )

    def to_transformers(self) -> Any:
        """Return the encoder as a network of transformers. Raises: ConfigError for one from scratch."""
        encoder = refuse_own(self.encoder)
        return copied(encoder)

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which the encoder reads token ids, [1, T]."""
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the encoder's states, [1, T, D]."""
        states: Tensor = self.encoder(inputs["input_ids"], inputs["attention_mask"].bool())
        return states

    def onnx_form(self, *, has_segments: bool) -> OnnxForm:
        """Return the network from token ids to vectors. Raises: ConfigError for an LSTM."""
        return text_form(self, self.encoder, self.vectors, output="vectors")
