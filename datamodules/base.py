"""The base of all datamodules: read, split, encode once into the cache, batch."""

import json
import logging
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, cast, final, runtime_checkable

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from lightrail.datamodules.batches.batching import Batch, BatchConfig, BatchLoader, BucketSampler, Draw, MeasuredRows
from lightrail.datamodules.batches.sampling import LabelDraw, SamplingConfig
from lightrail.datamodules.cache import CacheWriter, TokenisedSplit, build_once, cache_folder, digest_of
from lightrail.datamodules.cache.building import (
    ABOUT,
    About,
    different_facts,
    is_encoded_with,
    read_about,
    temporary_folder,
)
from lightrail.datamodules.cache.building import Facts as Facts
from lightrail.datamodules.checking import DataReport, Remedies, SplitFacts, report_on
from lightrail.datamodules.checking.facts import Inspected
from lightrail.datamodules.corpus.division import ExampleStore
from lightrail.datamodules.reading import Columns, ReadingNotes, Row, read_rows
from lightrail.datamodules.reading.sources import rows_given, source_digest
from lightrail.datamodules.settings import ReadingConfig as ReadingConfig
from lightrail.datamodules.settings import SplitConfig as SplitConfig
from lightrail.datamodules.settings import SplitSummary as SplitSummary
from lightrail.project.basics.errors import ConfigError

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test", "predict"]


@runtime_checkable
class HasFacts(Protocol):
    """A task that knows what it was built with from its data."""

    def data_facts(self) -> Facts:
        """Return the facts of the data that the task was built with."""


class DataModule(pl.LightningDataModule, ABC):
    """Turns one source, or one source for each split, into batches.

    A subclass defines the examples (`examples`), the facts that a module must know of the training split (`learn`), the
    encoding of an example as numbers (`encode`) and of these as a batch (`collate`). The rest is here.

    Args:
        path: a file, `embedded:NAME` or `hub:OWNER/NAME`; training data, from which the other splits are taken when
            they have no source of their own. For `predict`, the texts to predict.
        validation_path, test_path: sources of these splits.
        split: settings for dividing the rows of `path` when a split has no source of its own.
        reading: settings for reading files.
        batch: limits of a batch.
    """

    length_columns: Sequence[str] = ("input_ids",)
    """The columns whose lengths are the numbers of positions of an example: one, or source and target."""
    length_unit = "tokens"
    max_length: int
    """Longest example, in `length_unit`; a setting of each datamodule that cuts."""
    is_cut = True
    """Whether an example longer than `max_length` is cut there."""
    remedies = Remedies()
    """The settings that `lightrail check` suggests with its findings."""
    structured: Sequence[str] = ()
    """Columns whose parsed values are kept, not converted to text, and may be empty."""
    optional: Sequence[str] = ()
    """Structured columns that a JSON object may lack, if another object has them."""
    texts: Sequence[str] = ()
    """Columns that must hold one text; elsewhere a cell may be a list of texts."""
    no_examples = "none of which gives one"
    """Why a source may have rows and no examples, to follow "no examples in 3 rows, "."""
    compared: Callable[[str], str] = str
    """What of a text is compared to find repeats of it."""
    sampling = SamplingConfig()
    """Sampling of an epoch's examples by the encoded column `label`; a setting of datamodules with that column."""

    def __init__(
        self,
        *,
        path: str,
        validation_path: str | None,
        test_path: str | None,
        split: SplitConfig,
        reading: ReadingConfig,
        batch: BatchConfig,
    ) -> None:
        super().__init__()
        batch.check()
        self.path, self.validation_path, self.test_path = path, validation_path, test_path
        self.split, self.reading, self.batch = split, reading, batch
        self.order_seed = 0
        """Seed of the order of training examples; set when the run is built."""
        self._facts: Facts | None = None
        self._is_adopted = False
        self._folders: dict[str, Path] = {}
        """Encoded splits by what they are for: `fit` (train, validation and test) or `predict`."""
        self._rows: dict[str, TokenisedSplit] = {}
        self._datasets: dict[str, MeasuredRows] = {}
        self._about: dict[str, dict[str, Any]] = {}
        """Metadata of the folder of each split."""
        self._train_loader: BatchLoader | None = None
        self._position: dict[str, int] = {}

    @abstractmethod
    def columns(self, split: Split) -> Sequence[str] | Mapping[str, str]:
        """Return the columns to read, or columns by setting; a target may be missing for `predict`."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return every setting that changes the stored rows, as plain values; part of the cache's key."""

    @abstractmethod
    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        """Yield the examples of one record; `values["text"]` decides an example's split and identifies repeats."""

    @abstractmethod
    def learn(self, train: Iterator[Row]) -> Facts:
        """Collect the facts that encoding and the module need from the training examples."""

    @abstractmethod
    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        """Encode an example as numbers, arrays of numbers, and strings. Raises: DataError naming file and line."""

    @abstractmethod
    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad rows into a batch: tensors, the list `id`, and the integers `num_tokens` (unpadded) and `num_targets`.

        Random choices, such as masks, use `np.random.default_rng(row["draw_seed"])` of each row. They depend on seed,
        epoch and example, in an evaluation on the example alone: not on processes, workers or interruptions.
        """

    def labels_of(self, example: Row) -> Sequence[str]:
        """Return the labels of an example that encoding needs the training split to have."""
        return ()

    def inspect(self, row: Mapping[str, Any]) -> Inspected:
        """Return the facts of an encoded row for `lightrail check`."""
        return Inspected(length=sum(len(row[name]) for name in self.length_columns))

    def read(self, source: str, split: Split, notes: ReadingNotes) -> Iterator[Row]:
        """Yield the records of a source; override it for data that is not rows of text."""
        return read_rows(source, columns=self._requested(split), notes=notes, **asdict(self.reading))

    def given(self, inputs: Sequence[Any]) -> Iterator[Row]:
        """Yield what a caller gives to predict, texts or mappings by column, as records; override it with `read`."""
        return rows_given(inputs, self._requested("predict"), self.reading.empty)

    def examine(self, rows: TokenisedSplit, files: Sequence[str], facts: SplitFacts) -> None:
        """Add the rows of a split to the facts of a check; override it to avoid reading rows one by one."""
        for number in range(len(rows)):
            row = rows.row(number)
            seen: dict[str, Any] = {"line": row["line"], **self.inspect(row)._asdict()}
            facts.add(str(row["text"]), file=files[cast(int, row["file"])], **seen)

    def describe(self, rows: TokenisedSplit) -> str:
        """Return a line for the log about the long examples of a split; "" if none was too long."""
        return ""

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        """Return the rows for batches: those of the split, or others made of them, such as blocks of documents.

        Called once for each split that is used.
        """
        return rows

    def token_ids(self) -> Mapping[str, int] | None:
        """Return the id of each token, {} where a vocabulary is learned; None: unknown, and not checked."""
        return None

    def draw(self, dataset: MeasuredRows) -> Draw | None:
        """Return the function that draws the rows of an epoch of the training dataset. None: each row once."""
        if self.sampling.method == "none":
            return None
        return LabelDraw(self.rows("train").values("label"), self.sampling, self.order_seed)

    def digest(self, source: str, split: Split) -> str:
        """Digest all content of a source that `read` depends on, independent of file names."""
        return source_digest(source, self.reading.file_format, Columns(self.columns(split)))

    @final
    def adopt(self, facts: Facts) -> None:
        """Encode with the facts of a trained module instead of those of this data's training split."""
        self._facts, self._is_adopted = facts, True

    @final
    def facts(self) -> Facts:
        """Return the facts that the data was encoded with."""
        assert self._facts is not None, "call setup first"
        return self._facts

    @final
    def place(self, split: Split, row: int) -> str:
        """Return `FILE:LINE` of an example of a split, or its number where it is made of several lines."""
        rows, own = cast(Any, self.dataset(split)), {"validation": self.validation_path, "test": self.test_path}
        if not hasattr(rows, "cell"):
            return str(row)
        file = own.get(split) or self.path
        if not Path(file).is_file():  # where it is one, the cache may name that of whoever built it first
            file = self._about[split]["files"][rows.cell("file", row)]
        return f"{file}:{rows.cell('line', row)}"

    @final
    def prepare_data(self) -> None:
        """Encode into the cache unless that is done. Lightning calls this before it starts further processes."""
        is_predicting = self.trainer is not None and self.trainer.predicting
        self._encoded("predict" if is_predicting else "fit")

    @final
    def setup(self, stage: str) -> None:
        """Open the rows of each split, which are encoded if that is not done; may be called again.

        In a Trainer with a task, new data is encoded with the facts of the task. To predict, new data gives `path`, and
        data that was set up for another stage its test split. Raises: ConfigError, DataError.
        """
        folder = self._encoded(stage)
        names = ("predict",) if folder == self._folders.get("predict") else ("train", "validation", "test")
        if self._rows.keys() >= set(names):
            return
        about = read_about(folder)
        self._facts = about["facts"]
        for name in names:
            self._about[name], self._rows[name] = about, TokenisedSplit(folder, name)
            if note := self.describe(self._rows[name]):
                log.info("%s: %s", name, note)

    def _encoded(self, stage: str) -> Path:
        self._meet_task()
        use = "predict" if stage == "predict" and ("predict" in self._folders or not self._folders) else "fit"
        if use not in self._folders:
            self._folders[use] = self._encode_once(use)
        return self._folders[use]

    def _meet_task(self) -> None:
        """Encode with the facts of the Trainer's task. Raises: ConfigError when the data has others already."""
        task = getattr(self.trainer, "lightning_module", None)
        known = task.data_facts() if isinstance(task, HasFacts) else {}
        if known and self._facts is None:
            self.adopt(known)
        elif other := different_facts(known, self._facts or {}):
            raise ConfigError(
                f"the data was set up for another task than {type(task).__name__}: {', '.join(other)} differ. Give the "
                f"Trainer a new {type(self).__name__} for this one."
            )

    @final
    def rows(self, split: Split) -> TokenisedSplit:
        """Return the encoded rows of a split."""
        return self._rows[split]

    @final
    def dataset(self, split: Split) -> MeasuredRows:
        """Return the rows that batches of a split are made of; `id` in a batch is their index."""
        if split not in self._datasets:
            self._datasets[split] = self.arrange(self._rows[split], split)
        return self._datasets[split]

    @final
    def summaries(self) -> list[SplitSummary]:
        """Return a summary of each split for the tracker."""
        own = {"validation": self.validation_path, "test": self.test_path}
        return [
            SplitSummary(name, len(rows), self._about[name]["digests"][name], own.get(name) or self.path)
            for name, rows in self._rows.items()
        ]

    @final
    def report(self) -> DataReport:
        """Check the data for repeats, leaks, conflicts, imbalance and truncation."""
        sources = {summary.name: summary.source for summary in self.summaries()}
        splits = []
        for name, rows in self._rows.items():
            facts = SplitFacts(name, sources[name], ReadingNotes(**self._about[name]["notes"][name]))
            self.examine(rows, self._about[name]["files"], facts)
            splits.append(facts)
        return report_on(splits, self.max_length if self.is_cut else None, self.length_unit, self.remedies)

    @final
    def train_dataloader(self) -> BatchLoader:
        """Make the loader of shuffled training batches, at the position of a loaded checkpoint."""
        self._train_loader = self._loader("train", is_shuffled=True)
        self._train_loader.sampler.is_repeated = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        if self._position:
            self._train_loader.load_state_dict(self._position)
        return self._train_loader

    @final
    def state_dict(self) -> dict[str, int]:
        """Return the position of training in its data, for checkpoints."""
        # Lightning stores the loader's own state too, but loses it if it has made the loader to count the steps.
        return self._train_loader.state_dict() if self._train_loader else {}

    @final
    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Set the position at which the next training loader resumes."""
        self._position = state_dict

    @final
    def val_dataloader(self) -> BatchLoader:
        """Make the loader of validation batches, the shortest examples first."""
        return self._loader("validation")

    @final
    def test_dataloader(self) -> BatchLoader:
        """Make the loader of test batches, the shortest examples first."""
        return self._loader("test")

    @final
    def predict_dataloader(self) -> BatchLoader:
        """Make the loader of batches to predict, the shortest examples first; see `setup`."""
        return self._loader("predict" if "predict" in self._rows else "test")

    def _requested(self, split: Split) -> Columns:
        return Columns(self.columns(split), self.structured, texts=self.texts, optional=self.optional)

    def _loader(self, split: Split, *, is_shuffled: bool = False) -> BatchLoader:
        dataset, trainer = self.dataset(split), self.trainer
        sampler = BucketSampler(
            self.lengths(dataset),
            self.batch,
            seed=self.order_seed if is_shuffled else 0,  # an evaluation is the same for every seed
            is_shuffled=is_shuffled,
            draw=self.draw(dataset) if is_shuffled else None,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        return BatchLoader(dataset, self.collate, sampler, self.batch.num_workers)

    @final
    def lengths(self, dataset: MeasuredRows) -> NDArray[np.int64]:
        """Return the number of positions of each example, [N], or for several `length_columns` of each, [N, K]."""
        columns = [dataset.lengths(name) for name in self.length_columns]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def _encode_once(self, stage: str) -> Path:
        if not self.path.strip():
            raise ConfigError("data.path is blank. Name a file, a folder or a data set.")
        if stage == "predict":  # texts to predict are read once: they are not cached
            if self._facts is None:
                raise ConfigError(
                    "texts to predict are encoded as the task was trained: give the data to a Trainer together with it."
                )
            temporary = temporary_folder()
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
            return build_once(temporary / "predict", lambda writer: self._encode_all({"predict": self.path}, writer))
        sources = {"train": self.path, "validation": self.validation_path, "test": self.test_path}
        content = {name: source and self.digest(source, cast(Split, name)) for name, source in sources.items()}
        # The class path of version 0.1.0, so that its caches remain valid.
        made_by = f"{type(self).__module__}.{type(self).__qualname__}".removeprefix("lightrail.")
        shape = {"class": made_by, "split": asdict(self.split), "reading": asdict(self.reading)}
        key = [content, shape, dict(self.settings())]
        folder = cache_folder() / digest_of([*key, None])
        if self._facts is not None and not is_encoded_with(self._facts, folder):
            folder = cache_folder() / digest_of([*key, self._facts])
        return build_once(folder, lambda writer: self._encode_all(sources, writer), read_about)

    def _encode_all(self, sources: Mapping[str, str | None], writer: CacheWriter) -> None:
        about = self.encode_all(sources, self._facts if self._is_adopted else None, writer)
        (writer.folder / ABOUT).write_text(json.dumps(about._asdict()), encoding="utf-8")

    def encode_all(self, sources: Mapping[str, str | None], facts: Facts | None, writer: CacheWriter) -> About:
        """Encode the examples of all splits; override it for data that can be encoded faster.

        Args:
            sources: source of each split; None for one that is taken from the training split.
            facts: facts of a trained module; None to learn them.
        """
        # Examples are stored on disk between the two passes, so that memory does not grow with the corpus.
        # JSON can hold half a surrogate pair, which UTF-8 encodes only with this error handler.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogatepass", dir=writer.folder) as spool:
            notes = {name: ReadingNotes() for name in sources}
            store = ExampleStore(sources, spool, self.split, self.compared)
            for name, source in reversed(list(sources.items())):  # repeats are dropped from train, not from test
                for row in self.read(source, cast(Split, name), notes[name]) if source else ():
                    for example in self.examples(row, cast(Split, name)):
                        store.add(name, example, self.labels_of(example), notes[name])
            store.finish(self.path, self.no_examples, notes)
            facts = self.learn(store.read("train")) if facts is None else facts
            files: dict[str, int] = {}
            for name in sources:
                for example in store.read(name):
                    place = {"file": files.setdefault(example.file, len(files)), "line": example.line}
                    writer.add(name, {**self.encode(example, facts), **place})
            digests = store.digests()
        log.info("encoded %s", ", ".join(f"{count} {name} examples" for name, count in store.counts.items()))
        return About(facts, digests, list(files), {name: asdict(own) for name, own in notes.items()})
