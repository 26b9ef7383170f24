"""Running text for a language model, from a page to a corpus larger than memory."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, final

import numpy as np

from lightrail.datamodules.base import DataModule, Facts, ReadingConfig, Split, SplitConfig
from lightrail.datamodules.batches.batching import Batch, BatchConfig, Draw, MeasuredRows
from lightrail.datamodules.batches.block_batches import collate_blocks
from lightrail.datamodules.batches.blocks import BlockConfig, EvaluationPieces, training_blocks
from lightrail.datamodules.batches.sampling import SourceDraw
from lightrail.datamodules.cache import CacheWriter, TokenisedSplit
from lightrail.datamodules.cache.building import About, empty_split
from lightrail.datamodules.checking import SplitFacts
from lightrail.datamodules.corpus.building import CorpusBuilder, CorpusPlan, Joined
from lightrail.datamodules.corpus.division import FEW_INPUTS, all_repeat, few_inputs
from lightrail.datamodules.corpus.encoding import Division, encode_document
from lightrail.datamodules.corpus.files import SourceConfig, sources_digest
from lightrail.datamodules.corpus.shards import CorpusReading, DocumentKind
from lightrail.datamodules.reading import Row
from lightrail.datamodules.reading.rows import list_for_text
from lightrail.project.basics.annotations import NaturalInt, PositiveInt, check_arguments
from lightrail.project.basics.errors import ConfigError, DataError
from lightrail.project.basics.tokens.learning import characters_tokenizer, load_language_tokenizer, needs_texts
from lightrail.project.basics.tokens.numbering import LanguageTokenizer

log = logging.getLogger(__name__)

MOST_EXAMINED = 4_000_000
"""Maximum number of training texts in `lightrail check`, which takes about 200 MB."""


@final
class CausalLMData(DataModule):
    """Documents of text for next-token prediction.

    Sources are divided into shards of a few megabytes, which several processes encode; encoded shards are kept, so that
    a killed encoding resumes. Memory does not grow with the text.

    Args:
        path: a file of plain text, JSON Lines, Parquet or a table, compressed or not; a folder of such files, or a
            pattern (books/*.txt); `embedded:NAME` or `hub:OWNER/NAME@SPLIT`. To predict, the texts to score, one per
            line or row.
        sources: several such sources of training texts, in place of `path`, each with a weight.
        text_column: column of the text, in formats with columns.
        document: unit of plain text that is a document: a `line`, a `paragraph` (separated by blank lines), or a whole
            `file`, which is read in pieces of a million characters. No document sees the text of another, except with
            `blocks.method=sliding`. Blank lines are no documents. In JSON Lines, Parquet and tables each row is one.
        tokenizer: `characters`, `bytes`, `subwords` (byte pairs, trained on the training split), or the name or folder
            of a Hugging Face tokenizer.
        max_vocabulary: maximum number of distinct tokens, for characters and subwords.
        min_count: minimum count in the training split of a character, or of a pair of subwords, that is a token.
            Subwords are trained on at most 33 million characters, taken evenly from all files.
        blocks: settings for dividing documents into rows of bounded length.
        encoding_processes: maximum number of processes that encode. null: one for each core. It changes no result.
    """

    is_cut = False

    def __init__(
        self,
        path: str | None = None,
        *,
        sources: list[SourceConfig] | None = None,
        validation_path: str | None = None,
        test_path: str | None = None,
        text_column: str = "text",
        document: DocumentKind = "line",
        tokenizer: str = "characters",
        max_vocabulary: PositiveInt = 8192,
        min_count: NaturalInt = 1,
        blocks: BlockConfig = BlockConfig(),
        encoding_processes: PositiveInt | None = None,
        split: SplitConfig = SplitConfig(),
        reading: ReadingConfig = ReadingConfig(),
        batch: BatchConfig = BatchConfig(),
    ) -> None:
        super().__init__(
            path=path or ", ".join(source.path for source in sources or []),
            validation_path=validation_path,
            test_path=test_path,
            split=split,
            reading=reading,
            batch=batch,
        )
        self.given_path, self.sources = path, sources
        self.text_column, self.document = text_column, document
        self.tokenizer, self.max_vocabulary, self.min_count = tokenizer, max_vocabulary, min_count
        self.blocks, self.encoding_processes = blocks, encoding_processes
        self.max_length = blocks.length
        self._numbering: LanguageTokenizer | None = None
        self._numbered: Mapping[str, Any] = {}
        self._check_settings()

    def columns(self, split: Split) -> Mapping[str, str]:
        return {"text_column": self.text_column}

    def settings(self) -> Mapping[str, Any]:
        is_learned = needs_texts(self.tokenizer)
        return {
            "text": [self.text_column, self.document],
            "tokenizer": [self.tokenizer, None if is_learned else load_language_tokenizer(self.tokenizer).digest],
            "vocabulary": [self.max_vocabulary, self.min_count],
        }

    def digest(self, source: str, split: Split) -> str:
        paths = self._training_paths() if split == "train" else [source]
        return sources_digest(paths, self.reading.file_format)

    def examples(self, row: Row, split: Split) -> Iterator[Row]:
        """Yield each row to predict as a document; corpora are read by `encode_all`."""
        text = row.values[self.text_column]
        if isinstance(text, list):
            raise list_for_text(row, self.text_column, "data.text_column")
        yield Row({"text": text}, row.file, row.line)

    def learn(self, train: Iterator[Row]) -> Facts:
        texts = (example.values["text"] for example in train)
        tokenizer = load_language_tokenizer(
            self.tokenizer, texts, max_vocabulary=self.max_vocabulary, min_count=self.min_count
        )
        return {"tokenizer": tokenizer.facts()}

    def encode(self, example: Row, facts: Facts) -> Mapping[str, Any]:
        return encode_document(self._numbering_of(facts), example.values["text"], is_counted=True)

    def encode_all(self, sources: Mapping[str, str | None], facts: Facts | None, writer: CacheWriter) -> About:
        if "predict" in sources:
            return super().encode_all(sources, facts, writer)
        with CorpusBuilder(self._plan(sources), writer) as builder:
            facts = self._learned(builder) if facts is None else facts
            joined = builder.encode(self._numbering_of(facts))
            for name, count in joined.counts.items():
                if not count:
                    raise DataError(self._why_empty(name, sources[name], joined, builder))
        if joined.num_repeats:
            log.info("dropped %d documents that repeat another one", joined.num_repeats)
        log.info("encoded %s", ", ".join(f"{count} {name} documents" for name, count in joined.counts.items()))
        notes = {name: asdict(own) for name, own in builder.notes.items()}
        return About(facts, joined.digests, builder.files, notes)

    def arrange(self, rows: TokenisedSplit, split: Split) -> MeasuredRows:
        if split == "train":
            return training_blocks(rows, self.blocks, self.order_seed)
        return EvaluationPieces(rows, self.blocks)

    def draw(self, dataset: MeasuredRows) -> Draw | None:
        if self.sources is None or all(source.weight == 1 for source in self.sources):
            return None
        numbers = dataset.values("source") if len(self.sources) > 1 else np.zeros(len(dataset), np.int64)
        return SourceDraw(numbers, [source.weight for source in self.sources], self.order_seed)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows of blocks; see `collate_blocks`."""
        return collate_blocks(rows, self._numbering_of(self.facts()).decode)

    def token_ids(self) -> Mapping[str, int]:
        return self._numbering_of(self.facts()).token_ids()

    def describe(self, rows: TokenisedSplit) -> str:
        return f"{int(rows.lengths('input_ids').sum())} tokens in {len(rows)} documents"

    def examine(self, rows: TokenisedSplit, files: Sequence[str], facts: SplitFacts) -> None:
        """Add a sample of the texts of a large corpus to the facts, the same for equal texts in all splits."""
        digests = rows.values("text_digest").astype(np.int64).view(np.uint64)
        one_in = 1 + len(self.rows("train")) // MOST_EXAMINED
        chosen = np.flatnonzero(digests % np.uint64(one_in) == 0)
        facts.add_all(
            digests[chosen],
            files=files,
            file_of_row=rows.values("file")[chosen],
            lines=rows.values("line")[chosen],
            lengths=rows.lengths("input_ids")[chosen],
            num_left_out=len(rows) - len(chosen),
        )

    def _check_settings(self) -> None:
        check_arguments(self)
        self.blocks.check()
        if self.given_path is None and not self.sources:
            raise ConfigError("data.path is not set. Name a file, a folder or a data set, or give data.sources.")

    def _training_paths(self) -> list[str]:
        if self.sources is None:
            return [self.path]
        if self.given_path is not None:
            raise ConfigError(
                f"data.path ({self.given_path}) and data.sources are both given. Omit one of them, or add the "
                f"path to the sources."
            )
        return [source.path for source in self.sources]

    def _plan(self, sources: Mapping[str, str | None]) -> CorpusPlan:
        reading = self.reading
        own = {name: [source] if source else [] for name, source in sources.items() if name != "train"}
        undivided = {name: Division(split=name, seed=0, validation_fraction=0.0, test_fraction=0.0) for name in own}
        division = Division(
            split="train",
            seed=self.split.seed,
            validation_fraction=0.0 if sources["validation"] else self.split.validation_fraction,
            test_fraction=0.0 if sources["test"] else self.split.test_fraction,
        )
        return CorpusPlan(
            sources={"train": self._training_paths(), **own},
            reading=CorpusReading(
                document=self.document,
                text_column=self.text_column,
                encoding=reading.encoding,
                file_format=reading.file_format,
                quoting=reading.quoting,
                column_names=tuple(reading.column_names),
                empty=reading.empty,
            ),
            divisions={"train": division, **undivided},
            drop_repeats=self.split.drop_repeats,
            num_processes=self.encoding_processes,
        )

    def _learned(self, builder: CorpusBuilder) -> Facts:
        if self.tokenizer != "characters":
            return self.learn(builder.sample())
        counts = builder.count_characters()
        tokenizer = characters_tokenizer(counts, max_vocabulary=self.max_vocabulary, min_count=self.min_count)
        return {"tokenizer": tokenizer.facts()}

    def _why_empty(self, name: str, own: str | None, joined: Joined, builder: CorpusBuilder) -> str:
        inputs = builder.inputs(FEW_INPUTS)
        if not inputs:
            return f"{self.path}: all texts are empty or white space. Name another source."
        has_own = own and name != "train"
        num_rows = sum(joined.counts.values()) + joined.num_repeats
        is_shared = name == "train" and joined.num_repeats and (self.validation_path or self.test_path)
        reason = "" if has_own or is_shared or self.document == "file" else few_inputs(inputs, num_rows)
        reason = all_repeat(joined.num_repeats) if is_shared else reason
        return empty_split(name, self.path, own, joined.counts, reason) + self._smaller()

    def _smaller(self) -> str:
        return "" if self.document == "line" else f" Or make documents smaller than a {self.document}: data.document."

    def _numbering_of(self, facts: Facts) -> LanguageTokenizer:
        if self._numbering is None or self._numbered is not facts["tokenizer"]:
            self._numbered = facts["tokenizer"]
            self._numbering = LanguageTokenizer.from_facts(self._numbered)
        return self._numbering
