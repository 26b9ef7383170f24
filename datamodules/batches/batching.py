"""The batch sampler and loader: the same global batches on any number of processes, resumable at any batch."""

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
"""Function from an epoch to the indices of its training examples, the same number in every epoch, [M]."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Ranged):
    """Limits of a batch over all processes together, so that their number changes no result."""

    size: PositiveInt | None = 32
    """Maximum number of examples in a batch, summed over processes. null: limited by `max_tokens` alone."""
    max_tokens: PositiveInt | None = None
    """Maximum number of positions in a batch, padding included, summed over processes; a longer example is a batch of
    its own. null: limited by `size` alone."""
    num_workers: NaturalInt = 0
    """Number of loader processes. 0 is fastest for data that is already tokenised."""

    def check(self) -> None:
        """Check that there is a limit. Raises: ConfigError when there is none."""
        if self.size is None and self.max_tokens is None:
            raise ConfigError("data.batch: size and max_tokens are both null. Give one of them a number.")


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a global batch for one process."""

    indices: list[int]
    draw_seed: tuple[int, int]
    """Seed and epoch, which with an example's index seed its random choices."""
    is_filler: bool
    """Whether this is a padding batch: the batch has fewer examples than processes, and this repeat does not count."""


class Rows(Protocol):
    """Encoded examples, by index."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]:
        """Return the columns of one example."""
        ...


class MeasuredRows(Rows, Protocol):
    """Encoded examples whose lengths and integers are known without reading them."""

    def lengths(self, column: str) -> np.ndarray:
        """Return the length of each example in a column, [N]."""
        ...

    def values(self, column: str) -> np.ndarray:
        """Return the values of all examples in a column, concatenated."""
        ...


def length_buckets(lengths: np.ndarray) -> np.ndarray:
    """Round each length up to a bound of a grid whose cells are about 8 % wide.

    Examples in one cell count as equally long. That keeps batches random while padding stays small, and makes the
    number of batches the same in every epoch.
    """
    longest = int(lengths.max(initial=1))
    bounds = [1]
    while bounds[-1] < longest:
        bounds.append(max(bounds[-1] + 1, bounds[-1] * 108 // 100))
    # Two bytes per length if they suffice: sorting millions of them is then far faster.
    grid = np.minimum(np.array(bounds), longest).astype(np.int16 if longest < 2**15 else np.int64)
    return np.asarray(grid[np.searchsorted(grid, lengths)])


def batch_bounds(buckets: np.ndarray, size: int | None, max_tokens: int | None) -> np.ndarray:
    """Divide ascending lengths into batches; return the position at which each batch begins, and the end."""
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
    """Count how many of these ascending lengths fit into a batch, at least one."""
    if max_tokens is None:
        return len(buckets)
    positions = buckets.astype(np.int64) * np.arange(1, len(buckets) + 1)  # of a batch that ends here, with padding
    return max(1, int(np.searchsorted(positions, max_tokens, side="right")))


def pair_bounds(pairs: np.ndarray, size: int | None, max_tokens: int | None) -> np.ndarray:
    """Divide pairs of lengths, [N, 2], into batches; return the position at which each begins, and the end.

    The positions of a batch, padded to the longest of each column, are at most `max_tokens`.
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
    """The example indices of every batch of an epoch, as a sequence of batches that takes no memory of its own.

    Args:
        examples: indices of the examples, batch after batch, ascending in length, [M].
        bounds: the position in `examples` at which each batch begins, and the end.
        order: order of the batches.
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
        """Return the longest example of each batch."""
        return np.asarray(self.examples[self.bounds[self.order + 1] - 1])

    def sizes(self) -> np.ndarray:
        """Return the number of examples of each batch."""
        return np.asarray(np.diff(self.bounds)[self.order])


class BucketSampler(Sampler[Share]):
    """Gives every process its part of batches of about equally long examples, in a seeded order.

    The global batches depend on `lengths`, `seed` and epoch alone. Each is divided among the processes, so that every
    process takes the same number of steps, and no example is repeated or omitted. Lightning calls `set_epoch`.

    The examples of `draw` differ in length between epochs, and with a limit on positions the number of batches could
    too. Schedules need a fixed number: that of the first epoch; later epochs omit or repeat batches to match it.

    Args:
        lengths: positions of each example, [N], or of its source and its target, [N, 2], which are limited by
            `max_tokens` together.
        seed: seed of the order, and of the random choices for each example.
        draw: draws the examples of an epoch; None takes each once. For shuffled batches only.
        is_shuffled: False gives the same order in every epoch, shortest first.
        rank, world_size: index of this process, and number of processes.
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
        if lengths.ndim == 2:  # sorted by the sum, then by the first: examples of a batch are similar in both
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
        self.is_repeated = False
        """Whether every epoch has the batches of the first, in its order, to overfit on some of them."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def global_batches(self) -> GlobalBatches:
        """Return the example indices of every batch of this epoch, in order, for all processes together."""
        if not self.is_shuffled:
            examples, bounds = self._divided(np.arange(len(self.buckets)))
            return GlobalBatches(examples, bounds, np.arange(len(bounds) - 1))
        generator = np.random.default_rng([self.seed, self._order()])
        examples, bounds = self._divided(generator.permutation(self._drawn(self._order())))
        order = np.resize(generator.permutation(len(bounds) - 1), len(self))  # truncates, or repeats from the start
        return GlobalBatches(examples, bounds, order)

    def positions(self) -> np.ndarray:
        """Return the positions of each example's bucket, both sides together, [N]: at least as many as it has."""
        return self.buckets if self.pairs is None else np.asarray(self.pairs[self.buckets].sum(1))

    def _order(self) -> int:
        """Return the epoch whose order and random choices this one has."""
        return self.epoch if self.is_shuffled and not self.is_repeated else 0

    def _drawn(self, epoch: int) -> np.ndarray:
        return np.arange(len(self.buckets)) if self.draw is None else self.draw(epoch)

    def _divided(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Divide examples into batches, shortest first, equally long ones in their given order."""
        by_length = examples[np.argsort(self.buckets[examples], kind="stable")]
        return by_length, self._bounds(self.buckets[by_length])

    def _bounds(self, buckets: np.ndarray) -> np.ndarray:
        if self.pairs is not None:
            return pair_bounds(self.pairs[buckets], self.config.size, self.config.max_tokens)
        return batch_bounds(buckets, self.config.size, self.config.max_tokens)

    def __iter__(self) -> Iterator[Share]:
        for batch in self.global_batches()[self.first_batch :]:
            own = batch[self.rank :: self.world_size].tolist()
            seed = (self.seed, self._order())
            yield Share(own, seed, is_filler=False) if own else Share([int(batch[0])], seed, is_filler=True)


def row_for_batch(rows: Rows, number: int, draw_seed: Sequence[int] = ()) -> dict[str, Any]:
    """Return a row as `collate` takes it: with its `id`, and the seed of its random choices, `draw_seed` and number."""
    return {**rows.row(number), "id": number, "draw_seed": (*draw_seed, number)}


class Shares(Dataset[Batch]):
    """A dataset of whole batches: looks up and collates the rows of a share at once."""

    def __init__(self, rows: Rows, collate: Collate) -> None:
        self.rows, self.collate = rows, collate

    def __getitem__(self, share: Share) -> Batch:
        batch = self.collate([row_for_batch(self.rows, number, share.draw_seed) for number in share.indices])
        return {**batch, "is_filler": share.is_filler}


def leave_signals_to_training(_worker: int) -> None:
    """Make a loader worker ignore signals for the training process, except SIGTERM, which ends the worker."""
    # Ctrl-C reaches the whole process group, but the training process still needs batches to finish its step.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class BatchLoader:
    """A loader that resumes at the batch of a checkpoint, with any number of workers or processes.

    Lightning stores `state_dict` in each checkpoint. The position counts the global batches that were yielded, not
    those that workers have prefetched.
    """

    # No DataLoader but a wrapper of one: to predict, Lightning replaces a DataLoader's sampler by one of its own.

    def __init__(self, rows: Rows, collate: Collate, sampler: BucketSampler, num_workers: int = 0) -> None:
        self.rows, self.collate = rows, collate
        self.sampler = sampler  # Lightning calls set_epoch on it
        self.batch_sampler = None  # Lightning reads this attribute of a loader that has a sampler
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
        # A generator on purpose: Lightning requests the iterator before it calls set_epoch.
        # Nothing is skipped in an epoch after the checkpoint's, which limit_train_batches had ended.
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
        """Return the position, and the facts that it depends on."""
        return {**self._description(), "epoch": self.sampler.epoch, "batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Set the position. Raises: ConfigError when data, seed or batch limits differ from the checkpoint's."""
        found = self._description()
        different = [f"{name} was {state[name]} and is {found[name]}" for name in found if state[name] != found[name]]
        if different:
            raise ConfigError(
                f"this run cannot be resumed in the middle of an epoch: {', '.join(different)}. "
                "Use the data, data.batch and seed of the checkpoint, or start a new run from its weights."
            )
        # A checkpoint after the last batch resumes with a new epoch.
        self._resume_at = state["epoch"], state["batches_seen"] % len(self.sampler)


def pad(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Stack rows of different lengths into an int64 tensor, [B, longest], padded with `value`."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)
