"""Sentence embeddings.

Shapes: B examples, P texts of each (text, pair, hard negative), T positions, D width.
"""

from contextlib import nullcontext
from typing import final

import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.heads.contrast_head import ContrastHead, Similarity
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig
from lightrail.lightning_modules.networks.encoders.pooling import PoolingName, build_pooling
from lightrail.lightning_modules.networks.encoders.row_dropout import RowDropout
from lightrail.lightning_modules.networks.encoders.static import StaticConfig
from lightrail.lightning_modules.networks.number_formats import at_least_float32
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import Positive


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
            states = self.encoder(batch["input_ids"], batch["attention_mask"])  # [P * B, T, D]
            vectors = at_least_float32(self.pooling(states, batch["attention_mask"]))  # [P * B, D]
        if self.is_unit:
            vectors = F.normalize(vectors, dim=-1)
        return vectors.view(-1, len(batch["id"]), vectors.shape[-1]).transpose(0, 1)
