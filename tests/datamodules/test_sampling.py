"""Labels are shown as often as asked for, in batches that every process and every resumed run agrees on."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightrail.datamodules.batches.batching import BatchConfig, BatchLoader, BucketSampler
from lightrail.datamodules.batches.sampling import LabelDraw, SamplingConfig
from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project.basics.errors import ConfigError
from tests.support.counted_rows import CountedRows, collate, ids, many_lengths
from tests.support.texts import ready, write_tables

LABELS = np.array([0] * 60 + [2] * 7 + [1] * 20)
METHODS = ("oversample", "undersample", "weighted")


def draw(method: Any, power: float = 1.0, seed: int = 0, labels: np.ndarray = LABELS) -> LabelDraw:
    return LabelDraw(labels, SamplingConfig(method=method, power=power), seed)


def counts(drawn: np.ndarray) -> dict[int, int]:
    return dict(Counter(LABELS[drawn].tolist()))


def test_oversampling_repeats_every_row_of_a_rare_label_equally_often_but_for_the_rest() -> None:
    drawn = draw("oversample")(0)
    assert counts(drawn) == {0: 60, 1: 60, 2: 60}
    times = np.bincount(drawn, minlength=len(LABELS))
    assert times[:60].tolist() == [1] * 60
    assert sorted(times[60:67].tolist()) == [8, 8, 8, 9, 9, 9, 9]
    assert times[67:].tolist() == [3] * 20
    assert (draw("oversample")(1) != drawn).any()


def test_undersampling_takes_other_rows_in_every_epoch_and_none_twice() -> None:
    epochs = [draw("undersample")(epoch) for epoch in range(100)]
    for drawn in epochs:
        assert counts(drawn) == {0: 7, 1: 7, 2: 7}
        assert len(set(drawn.tolist())) == 21
    assert set(np.concatenate(epochs).tolist()) == set(range(len(LABELS)))


def test_weighted_draws_show_labels_equally_often_in_the_mean() -> None:
    drawn = np.concatenate([draw("weighted")(epoch) for epoch in range(200)])
    shares = np.bincount(LABELS[drawn]) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.015)  # four standard deviations
    rows = np.bincount(drawn, minlength=len(LABELS))[60:67] / len(drawn)
    assert rows == pytest.approx([1 / 21] * 7, abs=0.007)


@pytest.mark.parametrize("method", METHODS)
def test_a_power_of_a_half_goes_half_the_way(method: str) -> None:
    shares = np.array([60, 20, 7]) ** 0.5
    expected = shares / shares.sum()
    drawn = np.concatenate([draw(method, power=0.5)(epoch) for epoch in range(200)])
    assert np.bincount(LABELS[drawn]) / len(drawn) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("method", METHODS)
def test_a_draw_follows_from_seed_and_epoch_alone(method: str) -> None:
    one = [draw(method)(epoch).tolist() for epoch in range(3)]
    assert [draw(method)(epoch).tolist() for epoch in range(3)] == one
    assert len({len(epoch) for epoch in one}) == 1
    assert draw(method, seed=1)(0).tolist() != one[0] != one[1]


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_a_power_out_of_range_is_refused(power: float) -> None:
    with pytest.raises(ConfigError, match=r"SamplingConfig\.power: expected a number above 0 and up to 1, found"):
        SamplingConfig(method="weighted", power=power)


def sampler(method: str, config: BatchConfig, **more: Any) -> BucketSampler:
    lengths = many_lengths(len(LABELS))
    return BucketSampler(lengths, config, is_shuffled=True, draw=draw(method), **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("config", [BatchConfig(size=8), BatchConfig(size=None, max_tokens=150)])
def test_every_epoch_has_as_many_batches_however_long_its_examples(method: str, config: BatchConfig) -> None:
    own = sampler(method, config)
    whole = set()
    for epoch in range(20):
        own.set_epoch(epoch)
        batches = own.global_batches()
        assert len(batches) == len(own)
        drawn = np.sort(draw(method)(epoch)).tolist()
        found = np.sort(np.concatenate(batches)).tolist()
        whole.add(found == drawn)
        assert set(found) <= set(drawn)
        for batch in batches:
            assert len(batch) * own.buckets[batch].max() <= (config.max_tokens or np.inf) or len(batch) == 1
    assert True in whole
    assert (False in whole) <= (config.max_tokens is not None)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_share_the_batches_of_one(method: str) -> None:
    config = BatchConfig(size=7)
    alone = [sorted(share.indices) for share in sampler(method, config)]
    shares = [list(sampler(method, config, rank=rank, world_size=2)) for rank in range(2)]
    together = [
        sorted(index for share in pair if not share.is_filler for index in share.indices)
        for pair in zip(*shares, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_exactly_the_rest(method: str) -> None:
    def loader() -> BatchLoader:
        rows = CountedRows(many_lengths(len(LABELS)).tolist())
        made = BatchLoader(rows, collate, sampler(method, BatchConfig(size=None, max_tokens=150)))
        made.sampler.set_epoch(2)
        return made

    expected, interrupted, resumed = ids(loader()), loader(), loader()
    for _, _ in zip(range(3), interrupted, strict=False):
        state = interrupted.state_dict()
    resumed.load_state_dict(state)
    assert ids(resumed) == expected[3:]


def test_training_texts_are_drawn_and_others_come_once(tmp_path: Path) -> None:
    rows = [(f"good film {number}", "pos") for number in range(12)] + [("a bad one", "neg"), ("bad", "neg")]
    tables = write_tables(tmp_path, train=rows, validation=rows, test=rows)
    data = ready(TextClassificationData(**tables, sampling=SamplingConfig(method="oversample")))
    shown = Counter(label for batch in data.train_dataloader() for label in batch["labels"].tolist())
    assert shown == {0: 12, 1: 12}
    assert len(data.train_dataloader()) == 1
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert sorted(number for batch in loader for number in batch["id"]) == list(range(14))


def test_labels_that_do_not_exclude_each_other_are_not_evened_out() -> None:
    with pytest.raises(ConfigError, match=r"data\.sampling\.method=weighted balances labels that exclude each other"):
        TextClassificationData("x.csv", has_many_labels=True, sampling=SamplingConfig(method="weighted"))
