"""The command line: what it answers, with which status, and that it answers without the heavy libraries."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lightrail.project import cli
from lightrail.project.basics import logs
from lightrail.project.basics.errors import DataError, Shown, foreseen
from lightrail.project.tracking.run import start_run
from lightrail.project.tracking.settings import TrackingConfig

HEAVY = {"torch", "lightning", "mlflow", "transformers", "datasets", "numpy", "jsonargparse", "rich"}

PROBLEMS = ("warning", "error")


def output_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lightrail", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for project/commands/fit.py."""
    module = SimpleNamespace(run=lambda arguments: len(arguments))
    monkeypatch.setitem(sys.modules, "lightrail.project.commands.fit", module)
    return module


def test_help_and_list_import_nothing_heavy() -> None:
    probe = (
        "import sys; from lightrail.project.cli import main;"
        "statuses = [main([*words]) for words in (['--help'], ['fit', '--help'], ['list'], ['--version'])];"
        f"print(statuses, *sorted({HEAVY} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0]"


def test_runs_are_listed_without_the_libraries_that_train(store: str) -> None:
    start_run(TrackingConfig(uri=store), {}, {})
    probe = (
        "import gc, sys; from lightrail.project.cli import main; status = main(sys.argv[1:]);"
        "print(status, gc.isenabled(), *sorted({'torch', 'lightning'} & sys.modules.keys()))"
    )
    words = ["list", "runs", "--tracking.uri", store]
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 True"


@pytest.mark.parametrize("command", ["list runs", "sync", "ui", "compare", "export", "generate"])
def test_a_command_without_a_configuration_refuses_options_without_the_heavy_libraries(command: str) -> None:
    probe = (
        "import sys; from lightrail.project.cli import main; words = sys.argv[1:];"
        "statuses = [main([*words, more]) for more in ('--help', '--tracking.url', '--trackinguri=x')];"
        f"print(statuses, *sorted({HEAVY} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", probe, *command.split()], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 2, 2]"
    refusal = f"lightrail: error: lightrail {command}: no option {{}}. Did you mean --tracking.uri?"
    assert done.stderr.splitlines() == [refusal.format("--tracking.url"), refusal.format("--trackinguri")]


def test_the_module_runs_as_the_command() -> None:
    refused = output_of("fti", "--config", "x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "lightrail: error: there is no command 'fti'. Did you mean fit?\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("list", "check", "fit", "validate", "test", "predict", "ui"):
        assert f"\n  {name} " in shown


def test_the_help_of_a_command_is_short_and_names_our_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "-h"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 30
    for setting in ("--config", "--trainer.", "--tracking.", "--seed_everything", "--print_config", "--help_all"):
        assert setting in shown
    assert cli.main(["test", "--ckpt_path", "x", "--help"]) == 0
    assert "--ckpt_path" in capsys.readouterr().out


def test_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("lightrail: error: which command? list, check, fit,")


def test_a_command_gets_its_arguments_and_gives_the_status(command: SimpleNamespace) -> None:
    assert cli.main(["fit", "--a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("raised", "status", "out", "err"),
    [
        (Shown("as asked"), 0, "as asked\n", ""),
        (DataError("a.csv:3: no label"), 2, "", "lightrail: error: a.csv:3: no label\n"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "name"),
            2,
            "",
            "lightrail: error: 'name' is too long for a file name. Check the path, or the name of a run.\n",
        ),
        (KeyboardInterrupt(), 130, "", "lightrail: interrupted\n"),
    ],
)
def test_the_status_shows_how_a_command_ended(
    command: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    out: str,
    err: str,
) -> None:
    def run(arguments: list[str]) -> int:
        raise raised

    command.run = run
    assert cli.main(["fit"]) == status
    assert tuple(capsys.readouterr()) == (out, err)


def test_programs_get_what_is_not_a_refusal_as_it_is(command: SimpleNamespace) -> None:
    def run(arguments: list[str]) -> int:
        return arguments[1]  # type: ignore[return-value]

    command.run = run
    with pytest.raises(IndexError):
        cli.run(["fit"])


def test_a_refused_setting_is_one_line_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--config", "text_classification", "--trainer.max_epoch", "3"]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert refused.err == ("lightrail: error: trainer.max_epoch: no such setting. Did you mean trainer.max_epochs?\n")


def test_print_config_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--config", "text_classification", "--print_config"]) == 0
    assert capsys.readouterr().out.startswith("seed_everything: ")


def test_our_lines_and_their_warnings_are_shown() -> None:
    probe = """
import logging
from lightrail.project.basics.logs import set_up_logging
set_up_logging()
logging.getLogger("lightning.pytorch").setLevel(logging.INFO)  # as Lightning does when it is imported
names = "lightrail.project.running.build lightrail.datamodules.base lightning.pytorch.tips alembic.runtime httpx"
for name in names.split():
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "%s %s", name, logging.getLevelName(level).lower())
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    shown = [line.split(" ", 2)[2] for line in done.stderr.splitlines()]
    ours = [
        f"{name} {level}"
        for name in ("lightrail.project.running.build", "lightrail.datamodules.base")
        for level in ("info", *PROBLEMS)
    ]
    theirs = [
        f"{name} {level}" for name in ("lightning.pytorch.tips", "alembic.runtime", "httpx") for level in PROBLEMS
    ]
    assert shown == ours + theirs


def test_other_processes_only_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logs._is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not logs._is_first_process()


def test_a_compiler_that_does_not_work_is_a_refusal() -> None:
    failure = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    found = foreseen(failure("CppCompileError: C++ compile error\nmore"))
    assert found is not None
    assert found.status == 2
    assert found.message.startswith("torch.compile fails here: ")
    assert found.message.endswith("Install one, or set is_compiled to false.")
    assert "\n" not in found.message
