"""The one batch sampler: the same global batches on any number of processes, resumable at any batch."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lightrail.project.basics.annotations import NaturalInt, PositiveInt, Ranged
from lightrail.project.basics.errors import ConfigError

Batch = dict[str, Any]
Collate = Callable[[Sequence[dict[str, Any]]], Batch]
Draw = Callable[[int], np.ndarray]
"""Epoch to the numbers of the examples to learn from in it, equally many in every epoch, [M]."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Ranged):
    """What one batch may hold. Both limits count all processes together, so adding a process moves no number."""

    size: PositiveInt | None = 32
    """Most examples in a batch, summed over processes. null: limited by `max_tokens` alone."""
    max_tokens: PositiveInt | None = None
    """Most positions in a batch, padding included, summed over processes; a longer example is a batch of its own.
    null: limited by `size` alone."""
    num_workers: NaturalInt = 0
    """Loader processes. 0 is fastest for data that is already tokenised."""

    def check(self) -> None:
        """Raises: ConfigError when no limit is given."""
        if self.size is None and self.max_tokens is None:
            raise ConfigError("data.batch: size and max_tokens are both null. Give one of them a number.")


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one global batch that one process works on."""

    indices: list[int]
    draw_seed: tuple[int, int]
    """Seed and epoch, which with an example's number seed what is drawn for it."""
    is_filler: bool
    """The batch held fewer examples than there are processes; this repeat of one of them counts for nothing."""


class Rows(Protocol):
    """Encoded examples, by index."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]: ...


class MeasuredRows(Rows, Protocol):
    """Encoded examples whose lengths and integers are known without reading them."""

    def lengths(self, column: str) -> np.ndarray: ...

    def values(self, column: str) -> np.ndarray: ...


def length_buckets(lengths: np.ndarray) -> np.ndarray:
    """Round each length up to a bound of a grid whose cells are about 8 % wide.

    Examples of one cell count as equally long. That leaves chance a say in who shares a batch, while padding stays
    small, and makes the number of batches the same in every epoch.
    """
    longest = int(lengths.max(initial=1))
    bounds = [1]
    while bounds[-1] < longest:
        bounds.append(max(bounds[-1] + 1, bounds[-1] * 108 // 100))
    # Two bytes a length where they suffice: millions of them are then sorted in no time.
    grid = np.minimum(np.array(bounds), longest).astype(np.int16 if longest < 2**15 else np.int64)
    return np.asarray(grid[np.searchsorted(grid, lengths)])


def batch_bounds(buckets: np.ndarray, size: int | None, max_tokens: int | None) -> np.ndarray:
    """Cut ascending lengths into batches. Returns the position at which each batch begins, and the end."""
    bounds = [np.zeros(1, np.int64)]
    while (start := int(bounds[-1][-1])) < len(buckets):
        length = int(buckets[start])
        most = max(1, min(size or len(buckets), (max_tokens or len(buckets) * length) // length))
        num_alike = int(np.searchsorted(buckets[start:], buckets[start], side="right"))
        if num_alike >= most:
            bounds.append(start + most * np.arange(1, num_alike // most + 1))
        else:
            count = _mixed_batch(buckets[start : start + most], max_tokens)
            bounds.append(np.array([start + count]))
    return np.concatenate(bounds)


def _mixed_batch(buckets: np.ndarray, max_tokens: int | None) -> int:
    """Say how many of some lengths, whose first would all fit, do."""
    if max_tokens is None:
        return len(buckets)
    positions = buckets.astype(np.int64) * np.arange(1, len(buckets) + 1)  # of a batch that ends here, with padding
    return max(1, int(np.searchsorted(positions, max_tokens, side="right")))


def pair_bounds(pairs: np.ndarray, size: int | None, max_tokens: int | None) -> np.ndarray:
    """Cut pairs of lengths, [N, 2], into batches in which the longest of each together take up to `max_tokens`.

    Returns: the position at which each batch begins, and the end.
    """
    bounds = [0]
    while (start := bounds[-1]) < len(pairs):
        most = size or len(pairs)
        if max_tokens is not None:
            most = min(most, max(1, max_tokens // max(1, int(pairs[start].sum()))))
        longest = np.maximum.accumulate(pairs[start : start + most], axis=0).sum(1, dtype=np.int64)  # if it ended here
        positions = longest * np.arange(1, len(longest) + 1)
        fitting = len(longest) if max_tokens is None else int(np.searchsorted(positions, max_tokens, side="right"))
        bounds.append(start + max(1, fitting))
    return np.array(bounds, np.int64)


class GlobalBatches(Sequence[np.ndarray]):
    """The example numbers of every batch of an epoch, each batch cut out when it is asked for.

    Args:
        examples: numbers of the examples, batch after batch, ascending in length, [M].
        bounds: the place in `examples` with which each batch begins, and the end.
        order: in which the batches come.
    """

    def __init__(self, examples: np.ndarray, bounds: np.ndarray, order: np.ndarray) -> None:
        self.examples, self.bounds, self.order = examples, bounds, order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> "GlobalBatches": ...

    def __getitem__(self, index: int | slice) -> "np.ndarray | GlobalBatches":
        if isinstance(index, slice):
            return GlobalBatches(self.examples, self.bounds, self.order[index])
        number = self.order[index]
        return self.examples[self.bounds[number] : self.bounds[number + 1]]

    def longest(self) -> np.ndarray:
        """The longest example of each batch."""
        return np.asarray(self.examples[self.bounds[self.order + 1] - 1])

    def sizes(self) -> np.ndarray:
        """How many examples each batch holds."""
        return np.asarray(np.diff(self.bounds)[self.order])


class BucketSampler(Sampler[Share]):
    """Deals batches of about equally long examples, in a seeded order, to every process its share.

    The global batches follow from `lengths`, `seed` and epoch alone. Each is dealt out over the processes, so every
    process takes the same number of steps, and no example is repeated or left out. Lightning calls `set_epoch`.

    What `draw` gives differs in length from epoch to epoch, and a limit on positions could make a batch more or less of
    it. Schedules need a fixed number: it is that of the first epoch, and later ones leave out or repeat what differs.

    Args:
        lengths: positions of each example, [N], or in its source and its target, [N, 2]: of both together a batch holds
            at most `max_tokens`.
        seed: seed of the order, and of what is drawn for each example.
        draw: chooses the examples of an epoch; None takes each once. For shuffled batches only.
        is_shuffled: False gives the same order in every epoch, shortest first.
        rank, world_size: which process this is, of how many.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        config: BatchConfig,
        *,
        seed: int = 0,
        is_shuffled: bool = False,
        draw: Draw | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        config.check()
        assert draw is None or is_shuffled, "an evaluation takes each example once"
        self.config, self.draw = config, draw
        self.buckets = length_buckets(lengths if lengths.ndim == 1 else lengths.ravel()).reshape(lengths.shape)
        self.pairs: np.ndarray | None = None
        if lengths.ndim == 2:  # sorted by the sum, then by the first: what shares a batch is alike in both
            keyed = np.column_stack([self.buckets.sum(1, dtype=np.int64), self.buckets])
            found, self.buckets = np.unique(keyed, axis=0, return_inverse=True)
            self.pairs = found[:, 1:]
        drawn = self._drawn(0)
        self.num_drawn = len(drawn)
        self.num_batches = len(self._bounds(np.sort(self.buckets[drawn], kind="stable"))) - 1
        self.seed, self.is_shuffled = seed, is_shuffled
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def global_batches(self) -> GlobalBatches:
        """The example numbers of every batch of this epoch, in order, whatever the number of processes."""
        if not self.is_shuffled:
            examples, bounds = self._divided(np.arange(len(self.buckets)))
            return GlobalBatches(examples, bounds, np.arange(len(bounds) - 1))
        generator = np.random.default_rng([self.seed, self.epoch])
        examples, bounds = self._divided(generator.permutation(self._drawn(self.epoch)))
        order = np.resize(generator.permutation(len(bounds) - 1), len(self))  # cuts, or begins anew
        return GlobalBatches(examples, bounds, order)

    def _drawn(self, epoch: int) -> np.ndarray:
        return np.arange(len(self.buckets)) if self.draw is None else self.draw(epoch)

    def _divided(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Divide examples into batches, shortest first, equally long ones in the order in which they are given."""
        by_length = examples[np.argsort(self.buckets[examples], kind="stable")]
        return by_length, self._bounds(self.buckets[by_length])

    def _bounds(self, buckets: np.ndarray) -> np.ndarray:
        if self.pairs is not None:
            return pair_bounds(self.pairs[buckets], self.config.size, self.config.max_tokens)
        return batch_bounds(buckets, self.config.size, self.config.max_tokens)

    def __iter__(self) -> Iterator[Share]:
        for batch in self.global_batches()[self.first_batch :]:
            own = batch[self.rank :: self.world_size].tolist()
            seed = (self.seed, self.epoch if self.is_shuffled else 0)
            yield Share(own, seed, is_filler=False) if own else Share([int(batch[0])], seed, is_filler=True)


class Shares(Dataset[Batch]):
    """Looks up and collates a whole share at once."""

    def __init__(self, rows: Rows, collate: Collate) -> None:
        self.rows, self.collate = rows, collate

    def __getitem__(self, share: Share) -> Batch:
        batch = self.collate(
            [
                {**self.rows.row(number), "id": number, "draw_seed": (*share.draw_seed, number)}
                for number in share.indices
            ]
        )
        return {**batch, "is_filler": share.is_filler}


def leave_signals_to_training(_worker: int) -> None:
    """Have a worker outlive the Ctrl-C that its whole group receives, and end when it is told to.

    It was forked from a process that finishes its step first, for which it needs its batches.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class BatchLoader:
    """A loader that goes on at the batch at which a checkpoint was written, with any number of workers or processes.

    Lightning stores `state_dict` in each checkpoint. The position counts global batches that were handed out, not
    those a worker fetched ahead. It is no DataLoader but has one: to predict, Lightning takes a DataLoader apart and
    makes another with a sampler of its own.
    """

    def __init__(self, rows: Rows, collate: Collate, sampler: BucketSampler, num_workers: int = 0) -> None:
        self.rows, self.collate = rows, collate
        self.sampler = sampler  # on which Lightning calls set_epoch
        self.batch_sampler = None  # where there is a sampler Lightning looks for this one too
        self._batches: DataLoader[Batch] = DataLoader(
            Shares(rows, collate),
            sampler=sampler,
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_training,
            pin_memory=torch.cuda.is_available(),
        )
        self.batches_seen = 0
        self._resume_at: tuple[int, int] | None = None  # epoch and batch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator on purpose: Lightning asks for the iterator before it calls set_epoch.
        # In another epoch than the checkpoint's, which the trainer's limit_train_batches had ended, nothing is skipped.
        epoch, batches_seen = self._resume_at or (self.sampler.epoch, 0)
        self.batches_seen, self._resume_at = batches_seen if epoch == self.sampler.epoch else 0, None
        # Workers iterate the sampler twice, so it must keep the position until the epoch is over.
        self.sampler.first_batch = self.batches_seen
        for batch in self._batches:
            self.batches_seen += 1
            yield batch

    def _description(self) -> dict[str, int]:
        sampler = self.sampler
        return {"num_examples": sampler.num_drawn, "num_batches": len(sampler), "seed": sampler.seed}

    def state_dict(self) -> dict[str, int]:
        return {**self._description(), "epoch": self.sampler.epoch, "batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises: ConfigError when data, seed or batch limits differ from those of the checkpoint."""
        found = self._description()
        different = [f"{name} was {state[name]} and is {found[name]}" for name in found if state[name] != found[name]]
        if different:
            raise ConfigError(
                f"this run cannot go on in the middle of an epoch: {', '.join(different)}. "
                "Use the data, data.batch and seed of the checkpoint, or start a new run from its weights."
            )
        # Written after the last batch, a new epoch begins.
        self._resume_at = state["epoch"], state["batches_seen"] % len(self.sampler)


def pad(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Lay rows of different lengths side by side in an int64 tensor, [B, longest], filled up with `value`."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)
