"""`lightrail export --push`: the folder reaches a hub, here a stand-in of its API; what fails is one line."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.support.language_model import language_model, write_checkpoint
from tests.support.running import lightrail

TOKEN = "hf_a_token_of_this_test"


class Hub(ThreadingHTTPServer):
    """What the hub answers to who creates a repository and commits to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"sha": "0" * 40, "id": "me/model", "siblings": [], "lastModified": "2026-01-01T00:00:00.000Z"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.tokens.add(self.headers.get("authorization"))
        if self.server.refuses:
            self._answer({"error": "no right to write"}, 403)
        elif self.path.endswith("/repos/create"):
            self.server.created = json.loads(body)
            self._answer({"url": f"{self.server.uri}/me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": own["path"], "uploadMode": "regular", "shouldIgnore": False} for own in files]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{self.server.uri}/me/model/commit/1", "commitOid": "1", "success": True})
        else:
            self._answer({"errors": [], "warnings": []})

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.uri)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()
        thread.join()


def push(folder: Path, *more: str) -> Any:
    model = folder / "best.ckpt"
    if not model.exists():
        write_checkpoint(language_model(), model)
    store = f"--tracking.uri=sqlite:///{folder}/none.db"
    return lightrail("export", str(model), f"--output={folder}/out", "--overwrite", store, *more)


def test_the_folder_is_one_commit_of_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    outcome = push(tmp_path, "--push=me/model", "--format=hf")
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[-1] == f"pushed to {hub.uri}/me/model"
    written = {file.relative_to(tmp_path / "out").as_posix(): file for file in (tmp_path / "out").rglob("*.*")}
    assert {name: own.read_bytes() for name, own in written.items()} == hub.files
    assert {"README.md", "config.json", "model.safetensors"} <= hub.files.keys()
    assert b'AutoModelForCausalLM.from_pretrained("me/model")' in hub.files["README.md"]
    assert (hub.created["organization"], hub.created["name"]) == ("me", "model")
    assert "private" in (hub.created.get("visibility"), *(name for name, own in hub.created.items() if own is True))
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in outcome.out + outcome.err
    public = push(tmp_path, "--push=me/model", "--public")
    assert public.status == 0, public.err
    assert "private" not in (hub.created.get("visibility"), *(name for name, own in hub.created.items() if own is True))
    assert b"hf download me/model --local-dir model" in hub.files["README.md"]


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.refuses = True
    outcome = push(tmp_path, "--push=me/model")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert f"{hub.uri} refuses the upload: " in outcome.err
    assert TOKEN not in outcome.err
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.parametrize(
    ("environment", "repository", "message"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "me/model", "http://127.0.0.1:9 cannot be reached"),
        ({}, "model", "--push 'model' is no repository. Give OWNER/NAME."),
        ({"HF_TOKEN": ""}, "me/model", "--push needs a token of the Hugging Face hub that may write. Set HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    repository: str,
    message: str,
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = push(tmp_path, f"--push={repository}")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert message in outcome.err
