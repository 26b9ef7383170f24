"""Assignment of texts to splits by their content alone, and detection of repeated texts."""

import hashlib
import unicodedata
from functools import lru_cache
from typing import Literal

from lightrail.project.basics.errors import ConfigError

Split = Literal["train", "validation", "test"]


def split_of(text: str, seed: int, validation_fraction: float, test_fraction: float) -> Split:
    """Assign a text to a split by a hash of the text and of the split's seed.

    Equal texts are in the same split, a row keeps its split when others are added or removed, and neither the training
    seed nor the validation fraction moves a row into or out of the test set.

    Args:
        seed: seed of the split, not of the training.
        validation_fraction: expected fraction of distinct texts, in [0, 1).
        test_fraction: expected fraction of distinct texts, in [0, 1); their sum is below 1.

    Raises: ConfigError when the fractions are out of range.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            f"data.split.validation_fraction={validation_fraction} and data.split.test_fraction={test_fraction}: "
            f"each must be at least 0 and their sum below 1, so that rows are left to train on."
        )
    salt = seed.to_bytes(16, "little", signed=True)
    position = int.from_bytes(_digest(text, salt), "little") / 2**64  # even over [0, 1)
    if position < test_fraction:
        return "test"
    if position >= 1 - validation_fraction:
        return "validation"
    return "train"


def text_digest(text: str) -> int:
    """Compute an 8-byte digest of a text that ignores white space and the width of characters.

    Two of a hundred million different texts share a digest with a probability of 0.03 %.

    >>> text_digest("ＧＤＰ  grows ") == text_digest("GDP grows")
    True
    """
    return int.from_bytes(_digest(text, b""), "little")


def _digest(text: str, salt: bytes) -> bytes:
    return hashlib.blake2b(_plain(text), digest_size=8, salt=salt).digest()


@lru_cache(maxsize=1)  # a text is digested for its split, and immediately afterwards for comparison
def _plain(text: str) -> bytes:
    return " ".join(unicodedata.normalize("NFKC", text).split()).encode("utf-8", "surrogatepass")


class Deduplicator:
    """Detects repeated texts and counts them, in about 100 bytes for each different text."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.num_dropped = 0

    def is_new(self, text: str) -> bool:
        """Whether no equal text was passed before."""
        digest = text_digest(text)
        if digest in self._seen:
            self.num_dropped += 1
            return False
        self._seen.add(digest)
        return True
