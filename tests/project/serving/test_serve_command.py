"""`lightrail serve`, as a process and its refusals; the page for people."""

import base64
import hashlib
import re
import signal
import socket
from pathlib import Path

import pytest
import requests

from lightrail.project.figures.style import STYLE
from lightrail.project.serving.command import TOKEN
from tests.support.children import Child
from tests.support.language_model import language_model, write_checkpoint
from tests.support.running import lightrail
from tests.support.serving import SECONDS_TO_HANG, HeldEngine, held, running


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_served_model_answers_until_a_signal(number: signal.Signals, status: int, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(language_model(), tmp_path / "tiny.ckpt")
    server = Child(["serve", checkpoint, "--port=0", "--max_tokens=5"])
    address = server.first_line()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    assert requests.get(f"{address}about", timeout=SECONDS_TO_HANG).json()["limits"]["max_tokens"] == 5
    asked = '{"prompt": "to", "temperature": 0}'
    found = requests.post(f"{address}v1/completions", data=asked, timeout=SECONDS_TO_HANG).json()
    expected = lightrail("generate", str(checkpoint), "--prompt=to", "--temperature=0", "--max_tokens=5").out
    assert found["choices"][0]["text"] == expected.removesuffix("\n")
    server.send_signal(number)
    out, err = server.communicate()
    assert (server.returncode, out) == (status, f"{address}\n")
    assert "Traceback" not in err


@pytest.fixture
def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def refusal(*arguments: object) -> str:
    outcome = lightrail("serve", *map(str, arguments))
    assert (outcome.status, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    return line


def test_what_cannot_be_served_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, taken: socket.socket
) -> None:
    model, port = tmp_path / "none.ckpt", taken.getsockname()[1]
    with taken:
        assert f"--port {port} cannot be used: Address already in use" in refusal(model, f"--port={port}")
    assert "Give a number up to 65535" in refusal(model, "--port=65536")
    assert "is reached from other machines: set LIGHTRAIL_TOKEN" in refusal(model, "--host=0.0.0.0", "--port=0")
    assert "is no address" in refusal(model, "--host=no address", "--insecure")
    assert "--max_batch: expected a whole number of at least 1, found 0" in refusal(model, "--max_batch=0")
    assert "lightrail serve takes one model, found 2" in refusal(model, model)
    assert "no option --max_bach. Did you mean --max_batch?" in refusal(model, "--max_bach=3")
    monkeypatch.setenv(TOKEN, "two words")
    assert "has characters that no header can carry" in refusal(model)
    monkeypatch.setenv(TOKEN, "secret")
    assert "no such file or folder" in refusal(model, "--host=0.0.0.0", "--port=0")


def test_the_page_runs_its_own_script_alone() -> None:
    with running(held(HeldEngine())) as server:
        answer = server.get("/")
    text, policy = answer.text, answer.headers["content-security-policy"]
    assert STYLE in text
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(?:src|href|action)=|https?://|@import|url\(|\bon[a-z]+=\"", text), "nothing of others"
    for field in re.findall(r"<(?:input|textarea)[^>]* id=\"(\w+)\"", text):
        assert f'<label for="{field}">' in text, "each field has a name"
