"""Division of examples among the splits, and their storage on disk between the passes over them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from lightrail.datamodules.cache.building import Deduplicator, empty_split, split_of, split_position, text_digest
from lightrail.datamodules.reading import ReadingNotes, Row
from lightrail.datamodules.reading.label_names import plain_label
from lightrail.project.basics.did_you_mean import first_names
from lightrail.project.basics.errors import DataError, shown

if TYPE_CHECKING:
    from lightrail.datamodules.base import SplitConfig

log = logging.getLogger(__name__)

FEW_INPUTS = 20
"""Number of distinct inputs up to which a split is most likely empty because of them."""

FEW_ROWS = 1000
"""Number of training rows up to which a split that is empty by chance is given one."""


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


class _TrainRow(NamedTuple):
    """A training example of a small table."""

    number: int
    text: int
    """Digest of the text."""
    position: float
    labels: frozenset[str]


class ExampleStore:
    """The examples of all splits, in a file, so that memory does not grow with the corpus.

    Args:
        sources: source of each split; None for one that is taken from the training source.
        spool: an empty file that can be written and read.
        split: settings of the division of the training source.
        compared: what of a text is compared to find repeats of it.
    """

    def __init__(
        self,
        sources: Mapping[str, str | None],
        spool: IO[str],
        split: "SplitConfig",
        compared: Callable[[str], str] = str,
    ) -> None:
        self.sources, self.counts, self.split, self.compared = sources, dict.fromkeys(sources, 0), split, compared
        self._spool, self._repeats = spool, Deduplicator()
        self._train_labels: set[str] = set()
        self._unseen: dict[int, list[str]] = {}
        self._moved: dict[int, str] = {}
        self._few: list[_TrainRow] | None = []
        self._inputs: dict[int, str] = {}

    def add(self, source: str, example: Row, labels: Sequence[str], notes: ReadingNotes) -> None:
        """Add an example of a split's source, with its labels as they are spelt; omit it if repeats are dropped."""
        text = example.values["text"]
        if len(self._inputs) <= FEW_INPUTS:
            self._inputs.setdefault(text_digest(text), text[:100])
        if source != "predict" and self.split.drop_repeats and not self._repeats.is_new(self.compared(text)):
            return
        name = self._split_for(text) if source == "train" else source
        plain = [plain_label(label) for label in labels]
        if plain != list(labels):
            notes.num_respelt_labels += 1
            notes.first_respelt_line = notes.first_respelt_line or example.line
        if name == "train":
            self._train_labels.update(plain)
            self._note_row(text, plain)
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
        self._moved = {number: "train" for number, own in unseen.items() if own and self.counts["train"]}
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

    def _note_row(self, text: str, labels: Sequence[str]) -> None:
        if self._few is not None and len(self._few) < FEW_ROWS:
            position = split_position(text, self.split.seed)
            self._few.append(_TrainRow(sum(self.counts.values()), text_digest(text), position, frozenset(labels)))
        else:
            self._few = None

    def _fill(self, name: str) -> None:
        """Give a split that got no example of a small table by chance the training text whose hash is nearest to it.

        A split of 5 % of 60 texts has none in one of twenty tables. No label leaves train.
        """
        rows = [row for row in self._few or () if row.number not in self._moved]
        for text in sorted(rows, key=lambda row: row.position, reverse=name == "validation"):
            moved = [row for row in rows if row.text == text.text]
            others = [row for row in rows if row.text != text.text]
            if others and frozenset().union(*(row.labels for row in others)).issuperset(text.labels):
                self._moved.update((row.number, name) for row in moved)
                self.counts["train"] -= len(moved)
                self.counts[name] += len(moved)
                log.info("the %s split got no example by chance: it is given one text of the training split", name)
                return

    def finish(self, path: str, no_examples: str, notes: Mapping[str, ReadingNotes]) -> None:
        """Settle the splits once all examples are added. Raises: DataError saying why a split has no example.

        Args:
            no_examples: why rows may give no example.
        """
        if self._repeats.num_dropped:
            log.info("dropped %d examples that repeat another one", self._repeats.num_dropped)
        if self._unseen:
            self._keep_unseen_labels(notes["train"])
        for name, fraction in (("test", self.split.test_fraction), ("validation", self.split.validation_fraction)):
            is_lacking = name in self.counts and not self.sources[name] and not self.counts[name]
            if is_lacking and fraction and not few_inputs(self._inputs, self._num_read()):
                self._fill(name)
        if not sum(self.counts.values()):
            num_rows = sum(own.num_rows for own in notes.values())
            raise DataError(f"{path}: no examples in {num_rows} rows, {no_examples}. Name another source.")
        for name, count in self.counts.items():
            if not count:
                reason = "" if self.sources[name] and name != "train" else self._reason(name)
                raise DataError(empty_split(name, path, self.sources[name], self.counts, reason))

    def _num_read(self) -> int:
        return sum(self.counts.values()) + self._repeats.num_dropped

    def _reason(self, name: str) -> str:
        if (
            name == "train"
            and self._repeats.num_dropped
            and any(self.sources[other] for other in ("validation", "test"))
        ):
            return all_repeat(self._repeats.num_dropped)
        if few := few_inputs(self._inputs, self._num_read()):
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
            yield name if is_original else self._moved.get(number, name), values, line, file
