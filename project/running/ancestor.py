"""The run, or the file, that a run takes its first weights from: `model.init_from`."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.transfer.source import StoredWeights, read_weights, start_from
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.tokens.tokenizing import SEPARATOR
from lightrail.project.logged_models.publishing import ANCESTOR_TAG
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig

log = logging.getLogger(__name__)

_VOCABULARY = "vocabulary"
"""The fact of data that has the tokens of networks from scratch."""
DIGEST_TAG, TAKEN_TAG = "lightrail.init_digest", "lightrail.init_taken"
"""Tags of a run: the digest of the weights that it started from, and what of them was taken."""


@dataclass(frozen=True)
class Ancestor:
    """Where the first weights of a run come from."""

    named: str
    """The setting, as it was given."""
    run_id: str
    """Empty where the file does not name its run."""
    digest: str
    taken: str
    """What was taken, what is new and what was left, in words."""

    def __str__(self) -> str:
        return f"from {self.named}: {self.taken}"

    def tags(self) -> dict[str, str]:
        """Return the tags by which the run names it."""
        return {ANCESTOR_TAG: self.run_id or self.named, DIGEST_TAG: self.digest, TAKEN_TAG: self.taken}

    def changes(self, tags: Mapping[str, str]) -> list[str]:
        """Return a line when the run with these tags started from other weights under the same name."""
        before = tags.get(DIGEST_TAG, self.digest)
        if before == self.digest:
            return []
        return [f"model.init_from ({self.named}): weights {before[:10]} -> {self.digest[:10]}"]


@dataclass(frozen=True)
class FirstWeights:
    """Stored weights from which a new run starts."""

    named: str
    """The setting, as it was given."""
    source: StoredWeights

    @classmethod
    def read(cls, named: str, tracking: TrackingConfig) -> "FirstWeights":
        """Read the weights that a text names, as for `find_checkpoint`. Raises: ConfigError."""
        with _naming(named):
            return cls(named, read_weights(find_checkpoint(named, tracking)))

    def continued(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the facts of data with the vocabulary that the weights were trained with, and its new tokens behind.

        So tokens that the new data has in no training example are known, and tables of hashed tokens keep their
        meaning. None where nothing changes: without a learned vocabulary, of other tokens for the most part, or where
        the separator of pairs has another id.
        """
        before = [] if self.source.task is None else self.source.task.data_facts().get(_VOCABULARY, [])
        learned = facts.get(_VOCABULARY, [])
        known = set(before)
        new = [token for token in learned if token not in known]
        is_separated = SEPARATOR in learned[:1] and SEPARATOR not in before[:1]
        if not before or not learned or is_separated or 2 * len(new) > len(learned) or learned == [*before, *new]:
            return None
        log.info("vocabulary of %s: %d tokens, and %d new ones", self.named, len(before), len(new))
        return {**facts, _VOCABULARY: [*before, *new]}

    def into(self, model: TaskModule) -> Ancestor:
        """Copy into a new model what fits of the weights. Raises: ConfigError when nothing does."""
        with _naming(self.named):
            found = start_from(model, self.source)
        return Ancestor(self.named, self.source.run_id, self.source.digest, str(found))


@contextmanager
def _naming(named: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"model.init_from={shown(named, 200)}: {error}") from error
