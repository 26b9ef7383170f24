"""Division of examples among the splits, and their storage on disk between the passes over them."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING

from lightrail.datamodules.cache.building import Deduplicator, empty_split, split_of, text_digest
from lightrail.datamodules.reading import ReadingNotes, Row
from lightrail.datamodules.reading.label_names import plain_label
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import DataError, shown

if TYPE_CHECKING:
    from lightrail.datamodules.base import SplitConfig

log = logging.getLogger(__name__)

FEW_INPUTS = 20
"""Number of distinct inputs up to which a split is most likely empty because of them."""


def all_repeat(num_dropped: int) -> str:
    """Explain a training split that is empty because its examples are those of another split's source."""
    return (
        f"{num_dropped} examples repeat others, such as those of the validation or test source, which "
        f"data.split.drop_repeats=true drops from train. Name other sources, or set it to false."
    )


def few_inputs(inputs: Mapping[int, str], num_rows: int) -> str:
    """Explain an empty split by the inputs of all rows, by digest, if few are distinct; "" otherwise."""
    if not inputs or not len(inputs) <= FEW_INPUTS < num_rows:
        return ""
    same, *others = inputs.values()
    found = f"have only {len(others) + 1} distinct inputs, such as" if others else "all have the same input,"
    return f"The rows {found} {shown(same, 60)}, and equal inputs are in one split: name a column that varies."


class ExampleStore:
    """The examples of all splits, in a file, so that memory does not grow with the corpus.

    Args:
        sources: source of each split; None for one that is taken from the training source.
        spool: an empty file that can be written and read.
        split: settings of the division of the training source.
    """

    def __init__(self, sources: Mapping[str, str | None], spool: IO[str], split: "SplitConfig") -> None:
        self.sources, self.counts, self.split = sources, dict.fromkeys(sources, 0), split
        self._spool, self._repeats = spool, Deduplicator()
        self._train_labels: set[str] = set()
        self._unseen: dict[int, list[str]] = {}
        self._moved: set[int] = set()
        self._inputs: dict[int, str] = {}

    def add(self, source: str, example: Row, labels: Sequence[str], notes: ReadingNotes) -> None:
        """Add an example of a split's source, with its labels as they are spelt; omit it if repeats are dropped."""
        text = example.values["text"]
        if len(self._inputs) <= FEW_INPUTS:
            self._inputs.setdefault(text_digest(text), text[:100])
        if source != "predict" and self.split.drop_repeats and not self._repeats.is_new(text):
            return
        name = self._split_for(text) if source == "train" else source
        plain = [plain_label(label) for label in labels]
        if plain != list(labels):
            notes.num_respelt_labels += 1
            notes.first_respelt_line = notes.first_respelt_line or example.line
        if name == "train":
            self._train_labels.update(plain)
        elif not self.sources[name] and not self._train_labels.issuperset(plain):
            self._unseen[sum(self.counts.values())] = plain
        self.counts[name] += 1
        values = json.dumps(example.values, ensure_ascii=False)
        self._spool.write(f"{name}\t{values}\t{example.line}\t{example.file}\n")

    def _split_for(self, text: str) -> str:
        """The split of an example of the training source; splits with a source of their own get none of them."""
        validation = 0.0 if self.sources["validation"] else self.split.validation_fraction
        test = 0.0 if self.sources["test"] else self.split.test_fraction
        return split_of(text, self.split.seed, validation, test)

    def _keep_unseen_labels(self, notes: ReadingNotes) -> None:
        """Move the examples that the training source gave to other splits back to train, if a label has none there.

        A label that occurs in few rows may get no training example by chance, and could not be learned.
        """
        unseen = {number: sorted(set(own) - self._train_labels) for number, own in self._unseen.items()}
        self._moved = {number for number, own in unseen.items() if own and self.counts["train"]}
        if not self._moved:  # nor without any training example: the fractions are wrong, not the labels
            return
        names = sorted({label for own in unseen.values() for label in own})
        for number, (name, _, line, _) in enumerate(self._entries(is_original=True)):
            if number in self._moved:
                self.counts[name] -= 1
                self.counts["train"] += 1
                notes.first_moved_line = notes.first_moved_line or int(line)
        notes.num_moved_to_train = len(self._moved)
        log.warning(
            "kept %d examples in train, since %d labels (%s) occur in no other training example",
            len(self._moved),
            len(names),
            first_names(names),
        )

    def finish(self, path: str, no_examples: str, notes: Mapping[str, ReadingNotes]) -> None:
        """Settle the splits once all examples are added. Raises: DataError saying why a split has no example.

        Args:
            no_examples: why rows may give no example.
        """
        if self._repeats.num_dropped:
            log.info("dropped %d examples that repeat another one", self._repeats.num_dropped)
        if self._unseen:
            self._keep_unseen_labels(notes["train"])
        if not sum(self.counts.values()):
            num_rows = sum(own.num_rows for own in notes.values())
            raise DataError(f"{path}: no examples in {num_rows} rows, {no_examples}. Name another source.")
        for name, count in self.counts.items():
            if not count:
                reason = "" if self.sources[name] and name != "train" else self._reason(name)
                raise DataError(empty_split(name, path, self.sources[name], self.counts, reason))

    def _reason(self, name: str) -> str:
        if (
            name == "train"
            and self._repeats.num_dropped
            and any(self.sources[other] for other in ("validation", "test"))
        ):
            return all_repeat(self._repeats.num_dropped)
        if few := few_inputs(self._inputs, sum(self.counts.values()) + self._repeats.num_dropped):
            return few
        if self._moved:
            return (
                f"{len(self._moved)} rows stay in train, since no other training row has their label. If each row has "
                f"a label of its own, name the column of the labels."
            )
        return ""

    def read(self, split: str) -> Iterator[Row]:
        """Yield the examples of one split in the order in which they were added."""
        for name, values, line, file in self._entries():
            if name == split:
                yield Row(json.loads(values), file, int(line))

    def digests(self) -> dict[str, str]:
        """Return a digest of each split's content."""
        contents = {name: hashlib.blake2b(digest_size=16) for name in self.sources}
        for name, values, *_ in self._entries():
            contents[name].update(values.encode("utf-8", "surrogatepass"))
        return {name: content.hexdigest() for name, content in contents.items()}

    def _entries(self, *, is_original: bool = False) -> Iterator[tuple[str, str, str, str]]:
        """Yield split, values as JSON, line and file of all examples."""
        self._spool.seek(0)
        for number, entry in enumerate(self._spool):
            name, values, line, file = entry.rstrip("\n").split("\t", 3)  # JSON writes a tab inside a text as \\t
            yield "train" if number in self._moved and not is_original else name, values, line, file
