"""The run, or the file, that a run takes its first weights from: `model.init_from`."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightrail.lightning_modules.base import TaskModule
from lightrail.lightning_modules.transfer.source import read_weights, start_from
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.logged_models.publishing import ANCESTOR_TAG
from lightrail.project.tracking.naming import find_checkpoint
from lightrail.project.tracking.settings import TrackingConfig

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


def take_first_weights(model: TaskModule, named: str, tracking: TrackingConfig) -> Ancestor:
    """Copy into a new model what fits of the weights that a text names, as for `find_checkpoint`.

    Raises: ConfigError when there are none, they are damaged, or nothing of them fits.
    """
    try:
        source = read_weights(find_checkpoint(named, tracking))
        found = start_from(model, source)
    except ConfigError as error:
        raise ConfigError(f"model.init_from={shown(named, 200)}: {error}") from error
    return Ancestor(named, source.run_id, source.digest, str(found))
