"""`lightrail check --find`: the same on one process and two, nothing left behind, and what is refused."""

from pathlib import Path

import pytest

import lightrail as library
from lightrail.project.running.tuning.batch_size import BatchSize
from tests.support.running import FOUR_STEPS, QUIET, lightrail
from tests.support.tasks.text_classification import WITHOUT_DROPOUT, write_texts

NETWORK = ["--model.encoder.width=16", *WITHOUT_DROPOUT, "--model.token_dropout=0"]
SMALL = ["--model=TextClassifier", "--data=TextClassificationData", *NETWORK, *FOUR_STEPS, *QUIET]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder of its own, and keep the cache of encoded data in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def files_in(folder: Path) -> dict[Path, int]:
    """Times at which the files in a folder were written; locks are touched by whoever reads."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_two_processes_find_what_one_finds_and_nothing_is_left(here: Path) -> None:
    settings = [*SMALL, *write_texts(here)]
    assert lightrail("check", *settings).status == 0
    before = files_in(here)
    one = lightrail("check", "--find", "lr,batch_size", *settings)
    two = lightrail("check", "--find=lr", *settings, "--trainer.devices=2", "--trainer.strategy=ddp_fork")
    assert (one.status, one.err, two.status, two.err) == (0, "", 0, "")
    assert files_in(here) == before
    (suggested,) = [line for line in one.out.splitlines() if "--lr" in line]
    assert suggested in two.out.splitlines()
    assert 1e-4 < float(suggested.split()[1].rstrip(":")) < 1
    assert "batch size   on a CPU throughput " in one.out
    assert "batch size" not in two.out
    assert "--trainer.accumulate_grad_batches" in one.out.splitlines()[-1]


def test_one_process_of_several_checks_for_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightrail.project.commands.fit.is_process_zero", lambda: False)
    outcome = lightrail("check", *SMALL, *write_texts(here))
    assert (outcome.status, outcome.out) == (0, "")


def test_a_call_from_python_returns_what_is_found(here: Path) -> None:
    settings = dict(argument.removeprefix("--").split("=") for argument in [*SMALL, *write_texts(here)])
    model, data = ({"class_path": settings.pop(name)} for name in ("model", "data"))
    checked = library.check({"model": model, "data": data}, settings, find=["batch_size"])
    assert checked.found.keys() == {"batch_size"}
    result = checked.found["batch_size"]
    assert isinstance(result, BatchSize)
    assert result.settings["data.batch.size"] <= 4
    assert str(checked).endswith(result.render())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--find=rate"], "--find 'rate': give lr or batch_size."),
        (["--find=lr,"], "--find '': give lr or batch_size."),
        (["--find=batchsize"], "Did you mean batch_size?"),
        (["--find=lr", "--model=tests.support.plain_modules.LitModel"], "--find is for tasks of lightrail"),
    ],
)
def test_what_cannot_be_found_is_refused(here: Path, arguments: list[str], message: str) -> None:
    named = ["--model=TextClassifier", "--data=TextClassificationData", "--data.path=none.csv", "--allow_modules=tests"]
    outcome = lightrail("check", *named, *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_strategy_that_divides_the_model_is_refused(here: Path, command: str) -> None:
    more = ["--trainer.devices=2", "--trainer.strategy=ModelParallelStrategy"]
    outcome = lightrail(command, *SMALL, *write_texts(here), *more)
    assert outcome.status == 2
    assert outcome.err.startswith("lightrail: error: trainer.strategy is ModelParallelStrategy, which divides a model")
    assert outcome.err.endswith("Use ddp, or a smaller batch with trainer.accumulate_grad_batches.\n")
