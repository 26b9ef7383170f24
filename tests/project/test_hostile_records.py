"""What a stored run says of its code, its model and its scores may be a stranger's: nothing of it runs here."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient

from lightrail.lightning_modules.networks.encoders.pretrained import PretrainedConfig
from lightrail.project.basics.errors import ConfigError
from lightrail.project.commands.reproduce import advice
from lightrail.project.reproducing.code import CodeChanges, StoredRepository, code_changes, stored_repositories
from lightrail.project.reproducing.environment_changes import PackageChanges, package_changes
from lightrail.project.reproducing.original import Original
from lightrail.project.reproducing.survey import Differences, SettingChanges, Survey
from lightrail.project.tracking.naming import find_run
from lightrail.project.tracking.store import open_store
from tests.support.hostile import RUN_ID, HostileServer, hostile_server

DIGEST = "0" * 32


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with hostile_server() as server:
        yield server


@pytest.fixture
def original(server: HostileServer) -> Original:
    client: MlflowClient = open_store(server.uri, create=False)
    return Original(client, find_run(client, RUN_ID), server.uri, {}, Path("none"))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository as a stranger would pack it: everything in its configuration that git runs writes a file."""
    folder = tmp_path / "evil"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code_of_a_stranger.py").write_text("then\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    trap = folder / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/trapped\ncat\n")
    trap.chmod(0o755)
    (folder / ".gitattributes").write_text("*.py filter=evil diff=evil\n")
    (folder / "code_of_a_stranger.py").write_text("now\n")
    for name in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "diff.evil.textconv", "diff.external"):
        git(folder, "config", name, str(trap))
    hook = folder / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.symlink_to(trap)
    # a partial clone, which fetches a missing commit from a server whose program it names
    for name, value in {
        "core.repositoryformatversion": "1",
        "extensions.partialclone": "origin",
        "remote.origin.url": str(tmp_path / "other"),
        "remote.origin.promisor": "true",
        "remote.origin.uploadpack": str(trap),
    }.items():
        git(folder, "config", name, value)
    return folder


def record(folder: Path, commit: str, **changed: Any) -> dict[str, Any]:
    source = {"folder": str(folder), "repository": 0, "inside": ".", "files": {"code_of_a_stranger.py": DIGEST}}
    known = {"folder": str(folder), "commit": commit, "patch": None}
    known |= {name: value for name, value in changed.items() if name in known}
    source |= {name: value for name, value in changed.items() if name in source and name not in known}
    return {"working_folder": "/", "repositories": [known], "sources": [source]}


def stored(server: HostileServer, original: Original, value: Any) -> CodeChanges:
    server.artifacts["environment/code.json"] = json.dumps(value).encode()
    return code_changes(original)


@pytest.mark.parametrize("is_known", [True, False], ids=["its_commit", "a_missing_commit"])
def test_nothing_runs_in_a_repository_that_only_the_record_names(
    server: HostileServer, original: Original, repository: Path, tmp_path: Path, is_known: bool
) -> None:
    commit = git(repository, "rev-parse", "HEAD") if is_known else "1" * 40
    (tmp_path / "trapped").unlink(missing_ok=True)
    changes = stored(server, original, record(repository, commit))
    assert changes.lines
    assert not (tmp_path / "trapped").exists()
    nothing = Survey(Differences(), changes, PackageChanges([], []), SettingChanges(), {"threads": 1}, None, None)
    assert "git -C" not in advice(original, nothing, []), "checking it out would run its filters and hooks"


OUTSIDE = ["../../x.py", "/{}/x.py", "a/../../x.py", "", "a\0b", 3, None]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["inside", "files", "patch"])
def test_a_record_with_a_path_outside_is_refused(
    server: HostileServer, original: Original, tmp_path: Path, place: str, name: Any
) -> None:
    path = name.format(tmp_path) if isinstance(name, str) else name
    if (place, name) in (("patch", None), ("files", None), ("files", 3)):
        return  # no patch; and keys are texts in JSON
    value = {path: DIGEST} if place == "files" else path
    with pytest.raises(ConfigError, match=r"its file environment/code\.json: "):
        stored(server, original, record(tmp_path, "0" * 40, **{place: value}))


@pytest.mark.parametrize("commit", ["--output={}/written", "HEAD", "-p", "", "a" * 39, "A" * 40, "0" * 40 + "\n", None])
def test_a_commit_is_no_option(
    server: HostileServer, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: Any
) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=first")
    monkeypatch.chdir(tmp_path)
    commit = commit.format(tmp_path) if isinstance(commit, str) else commit
    with pytest.raises(ConfigError, match=r"its file environment/code\.json: .*not of the form"):
        stored(server, original, record(tmp_path, commit))
    assert not list(tmp_path.glob("written*"))


@pytest.mark.parametrize("text", ["[1]", '{"repositories": 3}', "[" * 100_000, "{", '{"a": ' + "9" * 5000 + "}"])
def test_a_record_of_another_form_is_one_message(server: HostileServer, original: Original, text: str) -> None:
    server.artifacts["environment/code.json"] = text.encode()
    with pytest.raises(ConfigError, match=r"its file environment/code\.json: "):
        code_changes(original)


def test_a_link_in_a_patch_is_not_followed(
    server: HostileServer, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "mine"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")
    (folder / "link.py").symlink_to(secret)
    git(folder, "add", ".")
    server.artifacts["environment/git.diff"] = (git(folder, "diff", "HEAD", "--binary") + "\n").encode()
    git(folder, "reset", "--quiet", "--hard")
    monkeypatch.chdir(folder)
    values = record(folder, git(folder, "rev-parse", "HEAD"), patch="git.diff", files={"link.py": DIGEST})
    (repository,) = stored_repositories(original, values)
    assert repository.is_own
    assert repository.contents(["link.py"]) == {}


def test_a_patch_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")
    new = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{2}\n"
    link = new.format("link", 120000, tmp_path) + "\\ No newline at end of file\n"
    patch = tmp_path / "git.diff"
    here = cast(Any, SimpleNamespace(folder=folder, commit="HEAD"))
    repository = StoredRepository(0, folder, "HEAD", patch, here, ["."], is_own=True)
    for text in (new.format("../outside", 100644, "x"), link + new.format("link/outside", 100644, "x")):
        patch.write_text(text)
        assert repository.contents(["../outside", "link/outside", "link"][1:]) == {}
        assert replace(repository, patch=None).contents(["link"]) == {}
    assert not list(tmp_path.rglob("outside"))


def test_advice_on_packages_has_no_options_and_addresses(server: HostileServer, original: Original) -> None:
    lines = ["--proxy=http://evil==1", "git+http://evil==1", "evil==http://evil", "numpy==0.0.1", "-r==1"]
    server.artifacts["environment/packages.txt"] = "\n".join(["# Python 3.0 --evil", *lines]).encode()
    found = package_changes(original)
    recorded = [change for change in [*found.counted, *found.others] if change.then is not None]
    assert [(change.name, change.then) for change in recorded] == [("numpy", "0.0.1")]


@pytest.mark.parametrize("part", ["AutoConfig", "AutoTokenizer"])
def test_standard_input_does_not_allow_the_code_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    from lightrail.project.basics.tokens.learning import _pretrained_tokenizer
    from lightrail.project.basics.tokens.tokenizing import PretrainedTokenizer

    folder = tmp_path / "model"
    folder.mkdir()
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Config", "AutoTokenizer": ["evil.Config", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": names}))
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'trapped')!r}).touch()\n")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    asks: dict[str, list[Callable[[], object]]] = {
        "AutoConfig": [lambda: PretrainedConfig(checkpoint=str(folder)).build([])],
        "AutoTokenizer": [lambda: PretrainedTokenizer(str(folder)), lambda: _pretrained_tokenizer(str(folder))],
    }
    for ask in asks[part]:
        with pytest.raises(ConfigError):
            ask()
    assert not (tmp_path / "trapped").exists()
    assert sys.stdin.read() == "y\n" * 9
    assert not os.path.exists(tmp_path / "modules" / "transformers_modules" / "model" / "evil.py")
