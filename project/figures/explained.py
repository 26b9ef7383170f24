"""Explanations of examples that a run's data has encoded, and the page of a few of them that every run has."""

import logging
from collections.abc import Mapping
from functools import cache
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightrail.datamodules.base import DataModule
from lightrail.datamodules.batches.batching import Rows, row_for_batch
from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.explaining.explanation import (
    AttentionHeads,
    ExplainsBatches,
    ExplainsTexts,
    Question,
)
from lightrail.lightning_modules.networks.encoders.encoder import FIRST_TOKEN
from lightrail.lightning_modules.networks.modes import evaluating
from lightrail.project.basics.durable import write_whole
from lightrail.project.basics.errors import first_line
from lightrail.project.basics.tokens.showing import shown_tokens
from lightrail.project.figures.explanations import ExplainedText, as_page

log = logging.getLogger(__name__)

EXPLAINED = "samples/explained.html"
"""The page of a run, in its artifacts."""
_NUM_EXAMPLES, _MOST_TRIED, _MOST_POSITIONS = 3, 12, 64
_MOST_WEIGHTS = 8_000_000
"""Weights of a network, those of embeddings aside, that reads the examples often enough in a second or two."""


def write_explained(data: DataModule, task: TaskModule, directory: Path) -> None:
    """Write a page of the first few validation examples of a moderate length, explained with attributions of few steps.

    Random numbers are as before. What cannot be explained, or not in a moment, is left out, with the reason in the log.
    """
    if not isinstance(task, ExplainsBatches | ExplainsTexts):
        return
    with isolate_rng():  # which restores nothing after an error, so that none may leave it
        try:
            with evaluating(task):
                own = _examples(data, task)
            if isinstance(own, str):
                log.info("%s is left out: %s", EXPLAINED, own)
                return
            lead = f"The first of at most {_MOST_POSITIONS} positions. lightrail explain shows more, of any text."
            write_whole(directory / EXPLAINED, as_page("validation examples", own, lead))
        except Exception as error:  # of any task and data: the run is trained and tested, and stays valid
            log.warning("%s is left out: %s: %s", EXPLAINED, type(error).__name__, first_line(error))


def _examples(data: DataModule, task: TaskModule) -> list[ExplainedText] | str:
    """Return explained examples; or why there are none."""
    if not isinstance(task.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return "the weights are divided among processes"
    num_weights = _num_weights(task)
    if num_weights > _MOST_WEIGHTS:
        return f"it takes too long with {num_weights:,} weights beside embeddings, more than {_MOST_WEIGHTS:,}"
    rows: Any = data.dataset("validation")
    lengths = data.lengths(rows)
    fitting = (lengths if lengths.ndim == 1 else lengths.max(1)) <= _MOST_POSITIONS
    numbers = fitting.nonzero()[0][:_MOST_TRIED].tolist()
    if not numbers:
        return f"no validation example has at most {_MOST_POSITIONS} positions"
    tried = (explained_row(data, task, rows, number, Question(is_brief=True)) for number in numbers)
    found = list(islice((own for own in tried if own.explanations), _NUM_EXAMPLES))
    return found or f"there is nothing to explain in the first {len(numbers)} validation examples"


def _num_weights(task: nn.Module) -> int:
    tables = {id(own.weight) for own in task.modules() if isinstance(own, nn.Embedding | nn.EmbeddingBag)}
    return sum(own.numel() for own in task.parameters() if id(own) not in tables)


def explained_row(data: DataModule, task: TaskModule, rows: Rows, number: int, question: Question) -> ExplainedText:
    """Explain what a task, in evaluation mode, predicts for an example; a brief question leaves maps of heads out.

    Raises: ConfigError when the question does not apply.
    """
    row = row_for_batch(rows, number)

    @cache
    def copies(num: int) -> dict[str, Any]:
        batch = data.collate([row] * num)
        return {name: own.to(task.device) if isinstance(own, Tensor) else own for name, own in batch.items()}

    text: str = copies(1)["text"][0]
    if isinstance(task, ExplainsTexts):
        found = task.explain_text(text, question)
    else:
        assert isinstance(task, ExplainsBatches)
        batch = copies(1)
        tokens = shown_tokens(batch["input_ids"][batch["attention_mask"]].tolist(), _token_names(data), text)
        text, found = text or " ".join(tokens), task.explain_batch(copies, tokens, question)
    if question.is_brief:
        found = takewhile(lambda own: not isinstance(own, AttentionHeads), found)
    return ExplainedText(text, list(found))


def _token_names(data: DataModule) -> dict[int, str]:
    """Return the name of each token id: the tokenizer's own, or that of the vocabulary that was learned."""
    ids: Mapping[str, int] = data.token_ids() or {}
    learned = enumerate(data.facts().get("vocabulary", ()), start=FIRST_TOKEN)
    return {number: name for name, number in ids.items()} or dict(learned)
