"""What follows from the machine, on machines that this one is not."""

import os
from pathlib import Path

import pytest
import torch

from lightrail.project.basics.hardware import fastest_precision, set_threads, usable_accelerator, usable_cores


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, bf16: bool = False, amx: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    # Older GPUs emulate bfloat16, slowly: that is not support.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_f": True})


@pytest.mark.parametrize(
    ("cuda", "bf16", "amx", "accelerator", "expected"),
    [
        (True, True, False, "gpu", "bf16-mixed"),
        (True, True, False, "cuda", "bf16-mixed"),
        (True, False, True, "gpu", "16-mixed"),
        (True, True, False, "cpu", "32-true"),
        (False, False, True, "cpu", "bf16-mixed"),
        (False, False, False, "cpu", "32-true"),
        (False, False, True, "gpu", "32-true"),
        (False, False, True, "mps", "32-true"),
    ],
)
def test_precision_is_what_the_hardware_multiplies_fastest(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, amx: bool, accelerator: str, expected: str
) -> None:
    pretend(monkeypatch, cuda=cuda, bf16=bf16, amx=amx)
    assert fastest_precision(accelerator) == expected


def test_a_cpu_that_does_not_know_of_a_matrix_unit_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert fastest_precision("cpu") == "32-true"


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True)
    assert [usable_accelerator(name) for name in ("auto", "cpu", "mps")] == ["gpu", "cpu", "mps"]
    pretend(monkeypatch, cuda=False)
    assert [usable_accelerator(name) for name in ("auto", "gpu")] == ["cpu", "gpu"]


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("400000 100000", 4),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_cores_are_those_granted(monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int) -> None:
    def read(self: Path, encoding: str) -> str:
        assert str(self) == "/sys/fs/cgroup/cpu.max"
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read)
    assert usable_cores() == expected


@pytest.mark.parametrize(("num_processes", "expected"), [(1, 6), (2, 3), (4, 1), (100, 1), (0, 6)])
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch, num_processes: int, expected: int) -> None:
    threads: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lightrail.project.basics.hardware.usable_cores", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    set_threads(num_processes)
    assert threads == [expected]


def test_the_users_number_of_threads_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("changed"))
    set_threads()
