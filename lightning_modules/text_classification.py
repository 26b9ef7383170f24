"""Text classification.

Shapes: B texts, N windows of texts (B unless some text has several), T positions, D width, L labels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.conversion.classifiers import divided, to_classifier
from lightrail.lightning_modules.conversion.onnx_forms import text_form
from lightrail.lightning_modules.conversion.protocols import OnnxForm
from lightrail.lightning_modules.explaining.attention import attention_heads
from lightrail.lightning_modules.explaining.explanation import Copies, Explanation, Question, refuse_target
from lightrail.lightning_modules.explaining.gradients import integrated_gradients
from lightrail.lightning_modules.heads.label_head import LabelHead
from lightrail.lightning_modules.heads.label_loss import LabelLossConfig
from lightrail.lightning_modules.networks.encoders.embedding import TokenDropout
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig, Spelling
from lightrail.lightning_modules.networks.encoders.pooling import PoolingName, build_pooling
from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedEncoder
from lightrail.lightning_modules.networks.encoders.transformer import TransformerConfig
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import ShareBelowOne


@final
class TextClassifier(TaskModule):
    """Assigns one label to each text or, with `has_many_labels`, any number of labels.

    Args:
        vocabulary: the tokens of a network from scratch, empty with a pretrained tokenizer; from the data.
        labels: names of the labels; from the data.
        label_counts: how often the training split has each; from the data.
        has_many_labels: whether a text may have several labels, or none; from the data.
        alphabet: the characters of words, where the data gives them; from the data.
        encoder: the network that reads the text.
        pooling: how a text's vector is made of its positions': `mean`, `first`, `max` or `attention`; or `pretrained`:
            by the layers that classifiers of a pretrained network's type have, such as BERT's pooler, with which
            `lightrail export --format hf` writes any such network.
        dropout: fraction of that vector zeroed in training, in [0, 1).
        token_dropout: fraction of a text's tokens hidden in training, in [0, 1); their characters are not.
        loss: options of the training loss.
    """

    pipeline_tag = "text-classification"
    pipeline_arguments = "", "top_k=None, truncation=True"
    pipeline_notes = ()
    transformers_class = "AutoModelForSequenceClassification"
    monitor = "val/accuracy"
    input_columns = ("text",)

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        labels: FromData[list[str]],
        label_counts: FromData[list[int]],
        has_many_labels: FromData[bool] = False,
        alphabet: FromData[list[str] | None] = None,
        *,
        encoder: EncoderConfig = TransformerConfig(),
        pooling: PoolingName | Literal["pretrained"] = "mean",
        dropout: ShareBelowOne = 0.1,
        token_dropout: ShareBelowOne = 0.0,
        loss: LabelLossConfig = LabelLossConfig(),
        optim: OptimConfig = OptimConfig(),
    ) -> None:
        if pooling == "pretrained":
            network, pool = encoder.build_with_pooling(vocabulary)
        else:
            network = encoder.build(vocabulary, alphabet)
            pool = build_pooling(pooling, network.width)
        head = LabelHead(network.width, labels, label_counts, has_many=has_many_labels, dropout=dropout, loss=loss)
        super().__init__(optim)
        self.save_hyperparameters()
        self.hparams["encoder"] = network.config
        if has_many_labels:
            self.monitor = "val/f1_micro"  # whole sets are right late or never
        self.token_dropout = TokenDropout(token_dropout, has_unknown=bool(vocabulary))
        self.encoder, self.pooling, self.head = network, pool, head

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, [B, L]; in training with R-Drop of two passes, [2, B, L]."""
        return self.head.passes(lambda: self._vectors(batch))  # [B, L]

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield the attributions of each predicted label, or of the one asked for, and the attention of the encoder."""
        refuse_target(question)
        batch = copies(1)
        with torch.no_grad():
            labels = self.head.asked_labels(self(batch), question.label)
        yield from integrated_gradients(
            self.encoder,
            lambda num: self(copies(num))[:, [number for _, number in labels]],
            [f"Score of the label {label}" for label, _ in labels],
            tokens,
            batch["attention_mask"],
            question,
            neutral=self.encoder.neutral,
            note="The score is the label's logit.",
        )
        yield from attention_heads(self.encoder, lambda: self(batch), tokens)

    def to_transformers(self) -> Any:
        """Return the same network as a classifier of transformers, of calibrated logits. Raises: ConfigError."""
        linear = divided(self.head.linear, self.head.temperature)
        return to_classifier(self.encoder, self.pooling, linear, self.head.labels, many=self.head.has_many)

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which that network reads token ids, [1, T]."""
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the calibrated logits of texts, [N, L]."""
        batch = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"].bool()}
        if "token_type_ids" in inputs:
            batch["segment_ids"] = inputs["token_type_ids"]
        logits: Tensor = self.head(self._vectors(batch)) / self.head.temperature
        return logits

    def onnx_form(self, *, has_segments: bool) -> OnnxForm:
        """Return the network from token ids to calibrated logits. Raises: ConfigError when it reads characters."""
        has_segments = has_segments and isinstance(self.encoder, PretrainedEncoder)
        return text_form(self, self.encoder, self.logits, has_segments=has_segments, output="logits")

    def _vectors(self, batch: Batch) -> Tensor:
        input_ids, is_token = self.token_dropout(batch["input_ids"], batch["attention_mask"])
        states = self.encoder(input_ids, is_token, batch.get("segment_ids"), Spelling.of(batch))  # [N, T, D]
        vectors: Tensor = self.pooling(states, is_token)  # [N, D]
        if "text_of_window" not in batch:
            return vectors  # [B, D]
        return mean_over_windows(vectors, batch["text_of_window"], len(batch["id"]))


def mean_over_windows(vectors: Tensor, text_of_window: Tensor, num_texts: int) -> Tensor:
    """Average the vectors of each text's windows, [N, D] to [B, D]; `text_of_window`, [N], numbers their texts.

    >>> mean_over_windows(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), num_texts=2).tolist()
    [[2.0], [5.0]]
    """
    counts = torch.bincount(text_of_window, minlength=num_texts).to(vectors.dtype)  # [B]
    sums = vectors.new_zeros(num_texts, vectors.shape[1]).index_add(0, text_of_window, vectors)
    return sums / counts[:, None]
