"""How GPUs and cores are divided between the workers of a sweep, and that a trial sees its own only."""

import os

import pytest
import torch

from lightrail.project.basics.errors import ConfigError
from lightrail.sweeps.search import driver
from lightrail.sweeps.search.definition import ResourceConfig
from lightrail.sweeps.search.driver import shares, usable_gpus
from lightrail.sweeps.trials.messages import Assignment
from lightrail.sweeps.trials.trial import _prepare

FOUR = ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("resources", "gpus", "expected"),
    [
        (ResourceConfig(), FOUR, ([["0"], ["1"], ["2"], ["3"]], 2)),
        (ResourceConfig(devices=2), FOUR, ([["0", "1"], ["2", "3"]], 2)),
        (ResourceConfig(workers=1, devices=3), FOUR, ([["0", "1", "2"]], 2)),
        (ResourceConfig(), [], ([[]], 8)),
        (ResourceConfig(workers=2, devices=2), [], ([[], []], 2)),
        (ResourceConfig(workers=20), [], ([[]] * 20, 1)),
        (ResourceConfig(workers=2, threads=3), [], ([[], []], 3)),
    ],
)
def test_workers_get_devices_and_threads_of_their_own(
    resources: ResourceConfig, gpus: list[str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "usable_cores", lambda: 8)
    assert shares(resources, gpus) == expected


def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 workers with 2 devices each need 6 GPUs, and there are 4"):
        shares(ResourceConfig(workers=3, devices=2), FOUR)
    with pytest.raises(ConfigError, match=r"1 workers with 8 devices each need 8 GPUs, and there are 4"):
        shares(ResourceConfig(devices=8), FOUR)


def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert usable_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert usable_gpus() == ["5", "GPU-7"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_gpus() == []


def test_a_trial_sees_its_own_gpus_and_takes_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "0")
    before = torch.get_num_threads()
    nothing = Assignment(
        values={},
        run_id=None,
        has_begun=False,
        tags={},
        metrics=[],
        log="log",
        devices=["2", "3"],
        threads=3,
        tests=False,
    )
    try:
        _prepare(nothing)
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]) == ("2,3", "3")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
