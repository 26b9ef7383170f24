"""Every command in the guides runs, every configuration in them is one, and every link leads somewhere.

Commands run as a person types them, one block after another in one folder, with settings added that make them tiny.
Blocks without a language hold commands, `yaml` blocks configurations, `text` blocks what is shown.
"""

import importlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from lightrail.project.basics.catalogue import ROOT, experiment_files
from lightrail.project.cli import COMMANDS, main
from lightrail.project.configuration import parse
from lightrail.project.configuration.sources import take_option, written_out
from lightrail.sweeps.search.definition import load
from tests.support.callbacks import ALLOW
from tests.support.children import SECONDS_TO_HANG, Child
from tests.support.guides import EVERY_SPLIT_HAS_ROWS, FILES, OF_THE_CHECKPOINT, PAIRS, QUIET, SMALL_DATA, class_name
from tests.support.pretrained import write_tiny_bert
from tests.support.pretrained_seq2seq import write_seq2seq
from tests.support.running import Outcome, lightrail
from tests.support.tasks.causal_lm import write_gpt2

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^ *```(?P<language>.*)\n(?P<text>(?:.*\n)*?) *```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
INLINE_SETTINGS = re.compile(r"`(--[^`\s]+ [^`]+)`")
INLINE_COMMAND = re.compile(r"`(?:[^`\s]*/)?lightrail ([a-z][^`]*)`")


ONE_STEP = [
    *("--trainer.max_steps=1", "--trainer.log_every_n_steps=1"),
    *("--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null"),
]
SMALL_NETWORKS = {
    "TransformerConfig": ["width=16", "depth=1", "num_heads=2", "ngram_buckets=64", "ngram_width=8"],
    "LstmConfig": ["width=16", "ngram_buckets=64", "ngram_width=8"],
    "TextCnnConfig": ["width=16", "num_filters=4"],
    "StaticConfig": ["width=16", "ngram_buckets=64", "ngram_width=8"],
    "PretrainedConfig": ["checkpoint=bert"],
    "ConvNetConfig": ["channels=[4, 8]", "width=8"],
    "MlpConfig": ["widths=[8]"],
    "TransformerDecoderConfig": ["width=16", "depth=1", "num_heads=2"],
    "PlainDecoderConfig": ["width=16", "depth=1", "num_heads=2"],
    "PretrainedDecoderConfig": ["checkpoint=gpt"],
    "ArchitectureConfig": [],
    "TransformerSeq2SeqConfig": ["width=16", "encoder_depth=1", "decoder_depth=1", "num_heads=2"],
    "RecurrentSeq2SeqConfig": ["width=16"],
    "PretrainedSeq2SeqConfig": ["checkpoint=t5"],
    "": [],
}
"""Settings by the network's class; "" stands for no network."""
ALONE = "own_lightning_module.md"
"""A guide whose commands run with the code in it, by `tests/test_own_lightning_module.py`."""
ABOUT = {
    "embeddings.md": "sentences",
    "entities.md": "ner",
    "language_models.md": "causal_lm",
    "pretraining.md": "masked_lm",
    "translation.md": "translation",
}
"""The experiment that a guide's settings are of, where it is not text classification."""
AS_THEY_STAND = {
    *("list", "clean", "sync", "compare", "reproduce", "generate", "explain", "export", "schema", "completion"),
    *("--help", "--version"),
}
"""Commands that take a moment without any settings added."""
ANSWERS_AT_ONCE = {"--status", "--print_config", "--help_all", "--help", "-h"}
SERVER_ELSEWHERE = "--tracking.uri=http://tracking.example"


@dataclass(frozen=True)
class Block:
    """A fenced block, named by document and line."""

    name: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(*languages: str) -> list[Block]:
    documents = [document for document in DOCUMENTS if document.name != ALONE]
    return [block for document in documents for block in blocks_of(document) if block.language in languages]


def blocks_of(document: Path) -> Iterator[Block]:
    text = document.read_text("utf-8")
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"{document.relative_to(ROOT)}:{line}", found["language"], found["text"])


@pytest.fixture(scope="module")
def run_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Go to a folder as the guides take it for granted; a run was made there."""
    folder = tmp_path_factory.mktemp("guides")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("LIGHTRAIL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_gpt2(folder / "gpt")
        write_tiny_bert(folder / "bert", list("好人书是学生"))
        write_seq2seq(folder / "t5", "t5", [text for pair in PAIRS for text in pair.values()])
        run_id = lightrail("fit", *tiny(["--config", "pinyin"])).run_id
        (artifacts,) = folder.glob(f"mlruns/*/{run_id}/artifacts")
        (folder / "config.yaml").symlink_to(artifacts / "config.yaml")
        (folder / "best.yaml").symlink_to(artifacts / "config.yaml")
        (folder / "path").mkdir()
        (folder / "path" / "to").symlink_to(artifacts / "checkpoints")
        yield run_id


def run_block(commands: list[list[str]], run_id: str) -> None:
    """Run one after the other; RUN_ID stands for the last run that was trained, OTHER_ID for the one before it."""
    other_id = run_id
    for words in commands:
        outcome = run([word.replace("RUN_ID", run_id).replace("OTHER_ID", other_id) for word in words])
        if outcome and words[1] == "fit" and outcome.last_line.startswith("run "):  # behind findings
            run_id, other_id = outcome.run_id, run_id


def run(words: list[str]) -> Outcome | None:
    """Run a command of a guide; `> FILE` at its end takes its output."""
    (program, *arguments), output = (words[:-2], words[-1]) if ">" in words[-2:-1] else (words, None)
    if program == "make":
        assert arguments
        assert set(arguments) <= make_targets()
    elif words[:3] == ["pip", "install", "-e"]:
        assert set(re.findall(r"\w+", words[3])) <= extras()
    elif program == "mlflow":
        run_mlflow(arguments)
    elif Path(program).name == "lightrail":
        return run_lightrail_into(arguments, output)
    else:
        pytest.fail(f"{program}: no test knows how to run it. Teach it to `run`, or mark the block as `text`.")
    return None


def run_mlflow(arguments: list[str]) -> None:
    """Run a command of MLflow in this process; a server is only named (tests/project/test_mlflow_models.py serves)."""
    assert arguments[0] == "models"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow
        command = importlib.import_module("mlflow.models.cli").commands
        if arguments[1] == "serve":
            assert command.commands["serve"].make_context("serve", arguments[2:])
        else:
            command.main(arguments[1:], standalone_mode=False)


def run_lightrail_into(arguments: list[str], output: str | None) -> Outcome:
    """Run it, and see that it says something or writes what `--output` names."""
    written = Path(arguments[arguments.index("--output") + 1]) if "--output" in arguments else None
    if written and written.is_dir():
        shutil.rmtree(written)
    elif written:
        written.unlink(missing_ok=True)
    outcome = run_lightrail(arguments)
    assert outcome.status == 0, outcome.err
    file = written / "README.md" if written and written.is_dir() else written
    assert file.read_bytes() if file else outcome.out
    if output:
        Path(output).write_text(outcome.out, encoding="utf-8")
    return outcome


def run_lightrail(arguments: list[str]) -> Outcome:
    command, *rest = arguments
    if command in AS_THEY_STAND or ANSWERS_AT_ONCE & set(rest):
        return lightrail(*arguments)
    if command in ("fit", "check"):
        words = tiny(written_out(rest, "--config"))
        return run_apart(command, *words) if "--trainer.strategy=ddp" in words else lightrail(command, *words)
    if command in ("validate", "test", "predict", "sweep"):
        return lightrail(command, *(tiny_sweep(rest) if command == "sweep" else [*rest, *QUIET]))
    if command == "resume":
        return lightrail("resume", interrupted_run(), ALLOW, *rest[1:], *ONE_STEP, *QUIET)
    if command in ("ui", "serve"):  # tests/project/test_ui.py serves; a store that is a server is only named
        return served(rest) if command == "serve" else lightrail(*arguments, SERVER_ELSEWHERE)
    return pytest.fail(f"lightrail {command}: no test knows how to run it on something tiny. Teach it here.")


def served(arguments: list[str]) -> Outcome:
    """Serve a model at any free port, ask whether it is there, and end it."""
    server = Child(["serve", *arguments, "--port=0"])
    address = server.first_line()
    answer = requests.get(f"{address}about", timeout=SECONDS_TO_HANG)
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate()
    assert answer.status_code == 200
    return Outcome(server.wait(), out, err)


def interrupted_run() -> str:
    """Interrupt a run before its first step, and give its id."""
    stop = ["--trainer.callbacks=Interrupt", "--trainer.callbacks.step=0", f"--trainer.callbacks.marker={uuid4().hex}"]
    assert main(["fit", *tiny(["--config", "pinyin"]), ALLOW, *stop]) == 130
    return lightrail("list", "runs").out.splitlines()[1].split()[0]


def run_apart(*arguments: str) -> Outcome:
    """For what starts the command anew in further processes: pytest must not be what is started."""
    done = subprocess.run([sys.executable, "-m", "lightrail", *arguments], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def settings_of(arguments: list[str]) -> list[str]:
    """Leave options of a command out, which are no settings."""
    for option in ("--seeds", "--find"):
        arguments = take_option(arguments, option)[1]
    return arguments


def tiny(arguments: list[str]) -> list[str]:
    """Add settings that make training of this configuration take a moment: one step, a small network, a small file."""
    values = parse(settings_of(arguments)).values
    part = next((own for own in ("decoder", "network") if own in values["model"]["init_args"]), "encoder")
    network = values["model"]["init_args"].get(part) or {"class_path": ""}
    smaller = [f"--model.{part}.{setting}" for setting in SMALL_NETWORKS[class_name(network)]]
    smaller += OF_THE_CHECKPOINT if class_name(network) == "PretrainedDecoderConfig" else []
    smaller += ["--data.tokenizer=bert"] if class_name(network) == "PretrainedConfig" else []
    if values["data"]["init_args"]["path"].startswith(("embedded:", "hub:", "/usr/share/")):
        smaller += [f"--data.{setting}" for setting in SMALL_DATA[class_name(values["data"])]]
    return [*arguments, *QUIET, *ONE_STEP, *EVERY_SPLIT_HAS_ROWS, *smaller]


def tiny_sweep(arguments: list[str]) -> list[str]:
    """Add settings that make a sweep one of two tiny trials; its own space is loaded all the same."""
    sweep = load(arguments)
    small = [f"--overrides.{setting[2:]}" for setting in tiny(sweep.base)[len(sweep.base) :]]
    space = "--space={model.optim.lr: {low: 1e-3, high: 1e-2, log: true}}"
    return [*arguments, *small, space, "--n_trials=2", "--enqueue=[]", "--pruner=optuna.pruners.NopPruner"]


@pytest.mark.parametrize("block", blocks("", "sh", "bash"), ids=lambda block: block.name)
def test_the_commands_of_a_guide_run(block: Block, run_id: str) -> None:
    assert block.commands
    run_block(block.commands, run_id)


@pytest.mark.parametrize("command", ["curl -O https://example.org", "lightrail dance --config pinyin"])
def test_a_command_nobody_knows_how_to_run_is_not_passed_over(command: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="no test knows how to run it"):
        run(command.split())


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_a_configuration_of_a_guide_is_one(block: Block, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(block.text, encoding="utf-8")
    (load if "\nspace:" in block.text else parse)(["--config", str(tmp_path / "config.yaml")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_block_is_of_a_kind_that_is_tested_and_is_closed(document: Path) -> None:
    text = document.read_text("utf-8")
    found = list(blocks_of(document))
    assert 2 * len(found) == text.count("```") > 0
    tested = {"", "sh", "bash", "yaml", "text"}
    shown = {"python", "toml"} if document.name == "own_task.md" else set()  # by `tests/test_outside.py`
    shown |= {"python"} if document.name in ("README.md", "python.md") else set()  # by `tests/test_notebooks.py`
    shown |= {"python"} if document.name == ALONE else set()
    assert {block.language for block in found} <= tested | shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_settings_and_commands_in_the_text_exist(document: Path, run_id: str) -> None:
    text = FENCED.sub("", document.read_text("utf-8"))
    for settings in INLINE_SETTINGS.findall(text):
        parse(["--config", ABOUT.get(document.name, "text_classification"), *settings_of(shlex.split(settings))])
    for command, *arguments in map(shlex.split, INLINE_COMMAND.findall(text)):
        assert command in COMMANDS
        if command in ("fit", "check") and arguments:
            parse(settings_of(written_out(arguments, "--config")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert missing_links(FENCED.sub("", document.read_text("utf-8")), document.parent) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = '[a](LICENSE) [b](https://example.org) [c](#d) ![e](e.png "E") [f](docs/f.md#g) <img src="h.svg"/>'
    assert missing_links(text, ROOT) == ["e.png", "docs/f.md", "h.svg"]


def missing_links(text: str, folder: Path) -> list[str]:
    targets = [(one or other).partition("#")[0] for one, other in LINK.findall(text)]
    return [target for target in targets if "://" not in target and not (folder / target).exists()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]\w*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return set(project["optional-dependencies"])


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) < 80


def test_the_readme_names_every_experiment() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in experiment_files() if not re.search(rf"\b{name}\b", text)] == []


def test_experiments_are_shipped() -> None:
    assert experiment_files().keys() >= {"pinyin", "pinyin_baseline", "text_classification"}


@pytest.mark.pictures
@pytest.mark.parametrize("name", experiment_files())
def test_a_shipped_experiment_trains_a_step_and_is_tested(name: str, run_id: str) -> None:
    outcome = lightrail("fit", *tiny(["--config", name]))
    assert outcome.status == 0, outcome.err
    assert outcome.last_line.startswith("run ")
    assert outcome.metrics["test/loss"] > 0
