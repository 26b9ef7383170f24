"""`lightrail generate`: what it reads, what it shows, and what it refuses."""

import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightrail.lightning_modules.networks.decoders.generation import GenerationConfig
from lightrail.project.basics.tokens.learning import load_language_tokenizer
from lightrail.project.basics.tokens.numbering import LanguageTokenizer
from lightrail.project.models.generating import text_model
from tests.support.children import SECONDS_TO_HANG
from tests.support.language_model import TEXTS, language_model, write_checkpoint
from tests.support.running import Outcome, lightrail


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(language_model(), tmp_path_factory.mktemp("generate") / "best.ckpt"))


def generate(checkpoint: str, *options: str) -> Outcome:
    return lightrail("generate", checkpoint, "--max_tokens=12", *options)


def expected(prompt: str, sample: int = 0, **settings: Any) -> str:
    """What the model writes without the command line around it."""
    config = GenerationConfig(**{"max_tokens": 12, "temperature": 0.8, **settings})
    model = text_model(language_model(), "it")
    steps = model.samples(model.prompt_ids(prompt), config, num_samples=sample + 1)
    return "".join(step[sample] for step in steps)


def test_one_sample_is_text_and_nothing_else(checkpoint: str) -> None:
    outcome = generate(checkpoint, "--prompt", "春")
    assert (outcome.status, outcome.out) == (0, expected("春") + "\n")
    assert len(expected("春")) > 4


def test_the_settings_are_those_of_the_command_line(checkpoint: str) -> None:
    settings: dict[str, Any] = {
        "seed": 5,
        "temperature": 2.5,
        "top_k": 7,
        "top_p": 0.9,
        "repetition_penalty": 1.5,
        "max_tokens": 9,
    }
    outcome = lightrail(
        "generate", checkpoint, "--prompt=to", *(f"--{name}={value}" for name, value in settings.items())
    )
    assert outcome.out == expected("to", **settings) + "\n"
    assert outcome.out != generate(checkpoint, "--prompt=to").out


def test_several_texts_have_headings(checkpoint: str) -> None:
    outcome = generate(checkpoint, "--prompt=春", "--prompt=to", "--num_samples=2")
    texts = [(prompt, sample, expected(prompt, sample)) for prompt in ("春", "to") for sample in (0, 1)]
    numbers = {"春": 1, "to": 2}
    assert outcome.out == "".join(
        f"=== prompt {numbers[prompt]}, sample {sample + 1} ===\n{text}\n" for prompt, sample, text in texts
    )
    assert generate(checkpoint, "--prompt=春", "--num_samples=2").out.startswith("=== sample 1 ===\n")


def test_a_file_holds_a_prompt_a_line(checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("春\nto\n", encoding="utf-8")
    outcome = generate(checkpoint, f"--prompts={tmp_path}/prompts.txt")
    assert outcome.out == f"=== prompt 1 ===\n{expected('春')}\n=== prompt 2 ===\n{expected('to')}\n"


@pytest.mark.parametrize("typed", ["to\nbe\n", "to\nbe", "to\nbe\r\n"])
def test_standard_input_is_one_prompt(checkpoint: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    assert generate(checkpoint).out == expected("to\nbe") + "\n"


def test_stop_strings_end_a_text(checkpoint: str) -> None:
    whole = expected("春")
    stops = (f"--stop={whole[5]}", f"--stop={whole[3:5]}")
    assert generate(checkpoint, "--prompt=春", *stops).out == whole[: min(whole.index(whole[5]), 3)] + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature=-1"], "--temperature: expected a number of at least 0 and below inf, found -1.0."),
        (["--top_p=0"], "--top_p: expected a number above 0 and up to 1, found 0.0."),
        (["--top_k=0"], "--top_k: expected a whole number of at least 1 or null, found 0."),
        (["--num_samples=0"], "--num_samples: expected a whole number of at least 1, found 0."),
        (["--max_tokens=many"], "argument --max_tokens: invalid int value: 'many'. `lightrail generate --help` lists"),
        (["--stop="], "--stop is empty"),
        (["--tempreature=1"], "no option --tempreature. Did you mean --temperature?"),
        (["another"], "takes one run or folder, found 2"),
        (["--chat"], "--chat: the tokenizer of this model has no chat template. Leave --chat out."),
        (["--prompts=nowhere.txt"], "--prompts 'nowhere.txt': "),
        (["--allow_modules=nowhere"], "--allow_modules nowhere: there is no module nowhere."),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(checkpoint: str, options: list[str], message: str) -> None:
    outcome = lightrail("generate", checkpoint, "--prompt=春", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_model_that_is_not_there_is_refused(tmp_path: Path, store: str) -> None:
    for named, message in (
        (f"{tmp_path}/best.ckpt", "no such file"),
        (str(tmp_path), "holds no exported model: lightrail.json cannot be read"),
        ("abcd1234", "no run 'abcd1234'"),
    ):
        outcome = lightrail("generate", named, "--prompt=a", f"--tracking.uri={store}")
        assert (outcome.status, outcome.out) == (2, "")
        assert message in outcome.err


def test_a_question_is_put_as_in_training(tmp_path: Path) -> None:
    by_template = write_checkpoint(language_model(), tmp_path / "a.ckpt", template="to {prompt}be {response} or")
    assert generate(str(by_template), "--chat", "--prompt=or").out == expected("to orbe ") + "\n"
    tokenizer = load_language_tokenizer("characters", TEXTS)
    chat = "{% for message in messages %}{{ message.content }}o{% endfor %}{% if add_generation_prompt %}b{% endif %}"
    chatty = LanguageTokenizer.from_facts({**tokenizer.facts(), "chat_template": chat})
    model = language_model(chatty)
    path = write_checkpoint(model, tmp_path / "b.ckpt")
    config = GenerationConfig(max_tokens=12, temperature=0.8)
    ids = tokenizer.encode("春ob").tolist()
    steps = list(text_model(model, "it").samples(ids, config))
    assert generate(str(path), "--chat", "--prompt=春").out == "".join(part for (part,) in steps) + "\n"


@contextmanager
def begun(checkpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which has shown its first characters."""
    command = [sys.executable, "-m", "lightrail", "generate", checkpoint, "--prompt=春", "--max_tokens=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        yield process


def test_text_is_shown_while_it_is_written_until_ctrl_c(checkpoint: str) -> None:
    with begun(checkpoint) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS_TO_HANG)
    assert (process.returncode, err) == (130, b"lightrail: interrupted\n")


def test_a_reader_that_has_had_enough_ends_it_without_complaint(checkpoint: str) -> None:
    with begun(checkpoint) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_copy_of_a_checkpoint_needs_no_store(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(checkpoint, tmp_path / "mine.ckpt")
    monkeypatch.chdir(tmp_path)
    assert generate("mine.ckpt", "--prompt=春").out == expected("春") + "\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.ckpt"]
