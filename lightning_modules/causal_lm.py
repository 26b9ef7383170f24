"""Language models that read from left to right.

Shapes: B rows, T positions, N positions with a target, V tokens.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightrail.lightning_modules.arguments import FromData
from lightrail.lightning_modules.base import Batch, TaskModule
from lightrail.lightning_modules.explaining.attention import attention_heads
from lightrail.lightning_modules.explaining.explanation import Explanation, Question, refuse_label
from lightrail.lightning_modules.explaining.gradients import integrated_gradients
from lightrail.lightning_modules.figures.figure import Curve, Figure
from lightrail.lightning_modules.heads.next_tokens import NO_TARGET, NextTokens
from lightrail.lightning_modules.metrics.language import LossByPosition
from lightrail.lightning_modules.metrics.language_scores import BitsPerUnit, Perplexity
from lightrail.lightning_modules.metrics.scores import Columns, Score, SumRatio, WeightedMean
from lightrail.lightning_modules.networks.decoders.decoder import DecoderConfig
from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig, generate
from lightrail.lightning_modules.networks.decoders.transformer_decoder import TransformerDecoderConfig
from lightrail.lightning_modules.networks.row_names import RowNames, token_rows
from lightrail.lightning_modules.optimization import OptimConfig
from lightrail.project.basics.annotations import ShareBelowOne, check_range
from lightrail.project.basics.errors import ConfigError
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.basics.tokens.showing import shown_ids


@final
class CausalLM(TaskModule):
    """Predicts the next token at every position of a text from the tokens before it.

    Args:
        tokenizer: facts that rebuild the data's tokenizer, its `size` among them; from the data.
        decoder: the network that reads the text.
        label_smoothing: fraction of the target's probability that training spreads over all tokens, in [0, 1).
    """

    monitor = "val/loss"
    transformers_class = "AutoModelForCausalLM"
    pipeline_tag = "text-generation"

    def __init__(
        self,
        tokenizer: FromData[dict[str, Any]],
        *,
        decoder: DecoderConfig = TransformerDecoderConfig(),
        label_smoothing: ShareBelowOne = 0.0,
        optim: OptimConfig = OptimConfig(lr=1e-3, schedule="cosine", weight_decay=0.1),
    ) -> None:
        check_range(label_smoothing, ShareBelowOne, "model.label_smoothing")
        super().__init__(optim)
        self.save_hyperparameters()
        self.decoder = decoder.build(tokenizer["size"])
        self.hparams["decoder"] = (
            self.decoder.config
        )  # with the architecture that was loaded: no files are needed again
        self.tokenizer, self.label_smoothing = tokenizer, label_smoothing
        self.loss_by_position = LossByPosition()

    def row_names(self) -> Mapping[str, RowNames]:
        """Return the tokens that rows of the decoder stand for."""
        tokens = token_rows(LanguageTokenizer.from_facts(self.tokenizer).token_ids(), self.tokenizer["size"])
        return {f"decoder.{name}": names for name, names in self.decoder.rows_of_tokens(target=tokens).items()}

    def forward(self, batch: Batch) -> NextTokens:
        """Score the next token at the positions with a target, N of B x T."""
        labels = batch["labels"]
        is_target = labels != NO_TARGET  # [B, T]
        if batch["num_targets"] == labels.numel():  # nothing to select, which a GPU would have to wait for
            logits = self.decoder(batch["input_ids"], batch.get("document_ids")).flatten(0, 1)
            return NextTokens(logits, labels.flatten(), is_target)
        logits = self.decoder(batch["input_ids"], batch.get("document_ids"), keep=is_target)  # [N, V]
        return NextTokens(logits, labels[is_target], is_target)

    def loss(self, outputs: NextTokens, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean nats per target, smoothed in training, and the number of targets."""
        smoothing = self.label_smoothing if self.training else 0.0
        return outputs.mean_loss(batch["num_targets"], smoothing), batch["num_targets"]

    def observe(self, outputs: NextTokens, batch: Batch) -> None:
        """Add the nats of a test batch to `loss_by_position`."""
        self.loss_by_position.update(outputs.losses, positions=outputs.is_target.nonzero()[:, 1])

    def figures(self, columns: Columns, example: Callable[[int], Mapping[str, Any]]) -> Iterator[Figure]:
        """Yield the loss against the number of tokens read before."""
        positions, nats, counts = self.tables["loss_by_position"].numpy().T
        if len(positions):
            yield Curve(
                name="loss_by_position",
                title="Loss by position",
                note=f"{counts.sum():,.0f} targets, {np.average(nats, weights=counts):.3f} nats per target on average",
                x=positions,
                y=nats,
                x_label="tokens seen",
                y_label="nats per target",
                is_logarithmic=True,
            )

    def decode(self, outputs: NextTokens, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Return mean nats, counts and score, the geometric mean of the targets' probabilities, of each row."""
        means, counts = outputs.row_means()
        return {
            **{name: batch[name] for name in ("text", "num_characters", "num_bytes") if name in batch},
            "loss": means,
            "num_targets": counts,
            "num_correct": [int(count) for count in outputs.per_row(outputs.are_correct)],
            "score": [math.exp(-mean) for mean in means],
        }

    def tokenizer_facts(self) -> Mapping[str, Any]:
        """Return the facts that rebuild the data's tokenizer."""
        return dict(self.hparams["tokenizer"])

    def write(
        self, prompt_ids: Sequence[int], config: GenerationConfig, *, num_samples: int, end_id: int | None
    ) -> Generator[list[int | None]]:
        """Yield the next token of every sample, step by step; see `generate`."""
        return generate(self.decoder, prompt_ids, config, num_samples=num_samples, end_id=end_id)

    def explain_text(self, text: str, question: Question) -> Iterator[Explanation]:
        """Yield the attributions of the likeliest next token, or of a given continuation, and the attention."""
        refuse_label(question)
        tokenizer = LanguageTokenizer.from_facts(self.tokenizer_facts())
        prompt = [tokenizer.start_id, *tokenizer.encode(text).tolist()]
        input_ids = torch.tensor([prompt], device=self.device)  # [1, T]
        if question.target is None:
            with torch.no_grad():
                targets = [int(self.decoder(input_ids)[0, -1].argmax())]
            name = f"Log probability of the likeliest next token, {shown_ids(tokenizer, targets)[0]}"
        else:
            targets = tokenizer.encode(question.target).tolist()
            name = f"Log probability of the continuation {question.target}"
        if not targets:
            raise ConfigError("--target is empty. Give at least one character.")
        given = torch.tensor([prompt + targets[:-1]], device=self.device)
        wanted = torch.tensor(targets, device=self.device)

        def scores(num: int) -> Tensor:
            logits = self.decoder(given.expand(num, -1))[:, len(prompt) - 1 :].float()
            return -F.cross_entropy(logits.transpose(1, 2), wanted.expand(num, -1), reduction="none").sum(1)[:, None]

        tokens = shown_ids(tokenizer, given[0].tolist(), text + (question.target or ""))
        is_token = torch.ones_like(given, dtype=torch.bool)
        yield from integrated_gradients(
            self.decoder,
            scores,
            [name],
            tokens,
            is_token,
            question,
            neutral=(tokenizer.start_id, "the token of a text's start"),
            note="In nats.",
        )
        yield from attention_heads(self.decoder, lambda: self.decoder(given), tokens)

    def to_transformers(self) -> Any:
        """Return the same network as a causal language model of transformers."""
        return self.decoder.to_transformers()

    def transformers_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the arguments with which the model of transformers reads token ids, [1, T]."""
        return {"input_ids": input_ids}

    def logits(self, **inputs: Tensor) -> Tensor:
        """Return the logits of one row of token ids, [1, T] to [1, T, V]."""
        logits: Tensor = self.decoder(**inputs)
        return logits

    def scores(self) -> Mapping[str, Score]:
        """Return loss, perplexity, bits per character and per byte, and token accuracy."""
        return {
            "loss": WeightedMean(column="loss", weight="num_targets", higher_is_better=False),
            "perplexity": Perplexity(higher_is_better=False),
            "bits_per_character": BitsPerUnit(units="num_characters", higher_is_better=False),
            "bits_per_byte": BitsPerUnit(units="num_bytes", higher_is_better=False),
            "token_accuracy": SumRatio(numerator="num_correct", denominator="num_targets"),
        }

    def baselines(self) -> Mapping[str, float]:
        """Return the loss of equal probabilities for all tokens of the vocabulary, in nats."""
        return {"loss": math.log(self.tokenizer["size"])}
