"""Named-entity recognition.

Shapes: B sentences, N windows, T positions, W words, D width. A word is the part with a tag: in Chinese a character.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import pyarrow as pa
import torch
from torch import Tensor, nn

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.conversion.classifiers import divided, to_tagger
from lightrail.lightning_modules.conversion.onnx_forms import text_form
from lightrail.lightning_modules.conversion.protocols import OnnxForm
from lightrail.lightning_modules.explaining.attention import attention_heads
from lightrail.lightning_modules.explaining.explanation import Copies, Explanation, Question, refuse_target
from lightrail.lightning_modules.explaining.gradients import integrated_gradients
from lightrail.lightning_modules.figures.entity_figures import entity_figures
from lightrail.lightning_modules.figures.figure import Figure
from lightrail.lightning_modules.metrics.entity_scores import Entity, entity_scores, written
from lightrail.lightning_modules.metrics.evaluation import ScoreSums
from lightrail.lightning_modules.metrics.scores import Columns, Score, WeightedMean
from lightrail.lightning_modules.networks.encoders.embedding import TokenDropout
from lightrail.lightning_modules.networks.encoders.encoder import EncoderConfig, Spelling
from lightrail.lightning_modules.networks.encoders.recurrent import LstmConfig
from lightrail.lightning_modules.networks.row_names import RowNames
from lightrail.lightning_modules.networks.tagging.entity_head import EntityHeadConfig
from lightrail.lightning_modules.networks.tagging.tag_head import CrfConfig, TagHead
from lightrail.lightning_modules.networks.tagging.tag_schemes import Span
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import ShareBelowOne
from lightrail.project.basics.did_you_mean import did_you_mean, first_names
from lightrail.project.basics.errors import ConfigError, shown


@final
class EntityTagger(TaskModule):
    """Finds the entities of a sentence and their types.

    Args:
        vocabulary: the tokens of a network from scratch, empty with a pretrained tokenizer; from the data.
        labels: names of the types; from the data.
        has_nested: whether entities may lie inside each other; from the data.
        alphabet: the characters of words, where the data gives them; from the data.
        encoder: the network that reads the sentence.
        head: finds entities in the words' vectors: CrfConfig, SoftmaxConfig, or SpanConfig where they are nested.
        dropout: fraction of these vectors zeroed in training, in [0, 1).
        token_dropout: fraction of a text's tokens hidden in training, in [0, 1); their characters are not.
    """

    pipeline_tag = "token-classification"
    pipeline_arguments = 'aggregation_strategy="first"', ""
    pipeline_notes = (
        "The pipeline takes the best tag of each word by itself, where lightrail takes the best sequence that the "
        "tags allow, and its scores are of single words.",
        "The pipeline divides texts into words by the tokenizer alone; lightrail first by `data.units`.",
    )
    transformers_class = "AutoModelForTokenClassification"
    monitor = "val/f1"

    def __init__(
        self,
        vocabulary: FromData[list[str]],
        labels: FromData[list[str]],
        has_nested: FromData[bool],
        alphabet: FromData[list[str] | None] = None,
        *,
        encoder: EncoderConfig = LstmConfig(),
        head: EntityHeadConfig = CrfConfig(),
        dropout: ShareBelowOne = 0.3,
        token_dropout: ShareBelowOne = 0.0,
        optim: OptimConfig = OptimConfig(),
    ) -> None:
        super().__init__(optim)
        self.save_hyperparameters()
        self.labels = labels
        self.encoder = encoder.build(vocabulary, alphabet)
        self.hparams["encoder"] = self.encoder.config
        self.token_dropout = TokenDropout(token_dropout, has_unknown=bool(vocabulary))
        self.dropout = nn.Dropout(dropout)
        self.head = head.build(self.encoder.width, len(labels), is_nested=has_nested)

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the types, or tags of types, that rows of the head stand for."""
        return {f"head.{name}": names for name, names in self.head.rows_of_types(self.labels).items()}

    def forward(self, batch: Batch) -> Tensor:
        """Score words for the head, [B, W, ...]; windows of a long sentence are joined by their words' places."""
        input_ids, is_token = self.token_dropout(batch["input_ids"], batch["attention_mask"])
        states = self.encoder(input_ids, is_token, spelling=Spelling.of(batch))  # [N, T, D]
        if "word_places" in batch:
            states = states.flatten(0, 1)[batch["word_places"]]  # [B, W, D]
        scores: Tensor = self.head(self.dropout(states))
        return scores  # [B, W, ...]

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per word, and the number of words."""
        return self.head.losses(outputs, batch).sum() / max(1, batch["num_targets"]), batch["num_targets"]

    def update(self, sums: ScoreSums, outputs: Tensor, batch: Batch) -> None:
        """Add a validation batch by word, without entities' probabilities, which take a CRF as long as all the rest."""
        found = self.head.spans(outputs, batch["word_mask"])
        columns = {"prediction": found, "target": _targets(batch)}
        sums.update({name: [written(map(self._entity, spans)) for spans in own] for name, own in columns.items()})

    def decode(self, outputs: Tensor, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return entities by character, `start:end:TYPE`, and the probability that the whole sentence is right."""
        found, texts, offsets = self.head.found(outputs, batch["word_mask"]), batch["text"], batch["offsets"]
        predictions = [
            [self._entity(span, own) for span in each.spans] for each, own in zip(found, offsets, strict=True)
        ]
        columns: dict[str, Sequence[Any]] = {
            "text": texts,
            "prediction": [written(entities) for entities in predictions],
            "score": [own.probability for own in found],
            "entities": [
                [
                    {"start": start, "end": end, "type": kind, "text": text[start:end], "score": probability}
                    for (start, end, kind), probability in zip(entities, own.probabilities, strict=True)
                ]
                for entities, own, text in zip(predictions, found, texts, strict=True)
            ],
        }
        if "spans" in batch:
            num_words = batch["word_mask"].sum(1)
            columns["target"] = [
                written(self._entity(span, own) for span in spans)
                for spans, own in zip(_targets(batch), offsets, strict=True)
            ]
            columns["loss"] = (self.head.losses(outputs, batch) / num_words.clamp(min=1)).tolist()
            columns["num_targets"] = num_words.tolist()
        return columns

    def scores(self) -> Mapping[str, Score]:
        """Return the scores of entities, `f1` first, and the loss."""
        loss = WeightedMean(column="loss", weight="num_targets", higher_is_better=False)
        return {**entity_scores(self.labels), "loss": loss}

    def column_types(self) -> Mapping[str, pa.DataType]:
        """Return the type of the column `entities`: a list of structs."""
        entity = {"start": pa.int64(), "end": pa.int64(), "type": pa.string(), "text": pa.string()}
        return {"entities": pa.list_(pa.struct({**entity, "score": pa.float32()}))}

    def val_scores(self) -> Mapping[str, Score]:
        """Return the scores over all types together: a curve for each of many types would bury the others."""
        scores = self.scores()
        return {name: scores[name] for name in ("f1", "precision", "recall", "f1_macro")}

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """Yield reliability of sentences and entities, scores by type, and the worst mistakes marked in their texts."""
        yield from super().figures(columns, example)
        yield from entity_figures(columns, self.labels)

    def calibration_rows(self, outputs: Tensor, batch: Batch) -> Sequence[Any]:
        """Return for each sentence what the head's calibration is fitted on."""
        return self.head.calibration_rows(outputs, batch)

    def calibrate(self, rows: list[Any]) -> Mapping[str, float]:
        """Fit the head's calibration and return its values, named `calibration/NAME`."""
        return {f"calibration/{name}": figure for name, figure in self.head.calibrate(rows).items()}

    def explain_batch(self, copies: Copies, tokens: Sequence[str], question: Question) -> Iterator[Explanation]:
        """Yield the attributions of each predicted entity, of the type asked for, and the attention of the encoder."""
        refuse_target(question)
        if question.label is not None and question.label not in self.labels:
            raise ConfigError(
                f"--label {shown(question.label)} is none of the {len(self.labels)} types of the model "
                f"({first_names(self.labels)}).{did_you_mean(question.label, self.labels)}"
            )
        batch = copies(1)
        with torch.no_grad():
            (spans,) = self.head.spans(self(batch), batch["word_mask"])
        entities = [(span, *self._entity(span, batch["offsets"][0])) for span in spans]
        asked = [own for own in entities if question.label in (None, own[-1])]

        def scores(num: int) -> Tensor:
            outputs = self(copies(num))
            return torch.stack([self.head.span_score(outputs, span) for span, *_ in asked], dim=1)  # [K, E]

        yield from integrated_gradients(
            self.encoder,
            scores,
            [f"Score of the {kind} {batch['text'][0][start:end]}" for _, start, end, kind in asked],
            tokens,
            batch["attention_mask"],
            question,
            neutral=self.encoder.neutral,
            note="The score is that of the entity's tags or span in its head, before it is a probability.",
        )
        yield from attention_heads(self.encoder, lambda: self(batch), tokens)

    def to_transformers(self) -> Any:
        """Return the same network as a tagger of transformers, whose tags begin with B and I.

        Raises: ConfigError when transformers has no such network.
        """
        if not isinstance(self.head, TagHead) or self.head.learns_transitions:
            raise ConfigError(
                "--format hf: the taggers of transformers choose the tag of each word by itself, and the head of this "
                "model chooses by what is around. Use --format safetensors, or train with --model.head=SoftmaxConfig."
            )
        linear = divided(self.head.output, self.head.crf.temperature)
        names = [name.replace("S-", "B-", 1).replace("E-", "I-", 1) for name in self.head.scheme.names(self.labels)]
        return to_tagger(self.encoder, linear, names)

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which that network reads token ids, [1, T]."""
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the scores of tokens, each as if it were a word, [N, T, K]."""
        scores: Tensor = self.head(self.encoder(inputs["input_ids"], inputs["attention_mask"].bool()))
        return scores / self.head.crf.temperature if isinstance(self.head, TagHead) else scores

    def onnx_form(self, *, has_segments: bool) -> OnnxForm:
        """Return the network from token ids to the scores of tags. Raises: ConfigError for another head."""
        if not isinstance(self.head, TagHead):
            raise ConfigError(
                "--format onnx: the head of this model scores pairs of words, which are not written. Use --format "
                "safetensors, or train with --model.head=SoftmaxConfig or CrfConfig."
            )
        return text_form(self, self.encoder, self.logits, output="emissions")

    def _entity(self, span: Span, offsets: Sequence[tuple[int, int]] | None = None) -> Entity:
        """Return a span as an entity by word or, with the words' offsets, by character."""
        first, end, kind = span
        if offsets is None:
            return first, end, self.labels[kind]
        return offsets[first][0], offsets[end - 1][1], self.labels[kind]


def _targets(batch: Batch) -> list[list[Span]]:
    """Return the entities of each sentence."""
    spans: list[list[Span]] = [[] for _ in batch["text"]]
    for sentence, first, end, kind in batch["spans"].tolist():
        spans[sentence].append((first, end, kind))
    return spans
