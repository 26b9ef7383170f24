"""What a run was made with."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lightrail.project.provenance import code as code_of_runs
from lightrail.project.provenance import recording as provenance
from lightrail.project.provenance.code import with_imports


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit; it is the working folder, and no code that runs is in another one."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(code_of_runs, "ROOT", tmp_path)
    monkeypatch.setattr(code_of_runs, "_imported_files", lambda: iter([]))
    return folder


def test_a_clean_repository_gives_its_commit_and_no_difference(repository: Path, tmp_path: Path) -> None:
    tags = provenance.code_tags()
    assert tags["lightrail.git_sha"] == git(repository, "rev-parse", "HEAD")
    assert tags["lightrail.git_dirty"] == "false"
    provenance.write_environment(tmp_path / "environment")
    assert not (tmp_path / "environment" / "git.diff").exists()


def change_everything(repository: Path) -> dict[str, bytes]:
    """Change a clone's files in every way there is; return what the source files then hold."""
    (repository / "code.py").write_bytes(b"a = 2  # \xe9\n")
    (repository / "gone.py").unlink()
    (repository / "staged.py").write_text("staged = True\n")
    git(repository, "add", "staged.py")
    (repository / "picture.png").write_bytes(bytes(range(256)))
    (repository / "new folder").mkdir()
    (repository / "new folder" / "é [1].py").write_text("no = 'end of line'")
    (repository / "new folder" / "empty.yaml").write_text("")
    script = repository / "run.sh"
    script.write_text("true\n")
    script.chmod(0o755)
    return contents(repository)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not a store's, git's or a note, and whether it can be run."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".git" not in file.parts)
    names = {str(file.relative_to(folder)): file for file in files}
    return {
        name: file.read_bytes() + (b" x" if file.stat().st_mode & 0o100 else b"")
        for name, file in names.items()
        if not name.startswith(("mlflow.db", "mlruns", "notes"))
    }


def test_the_patch_on_the_commit_gives_the_code_back_exactly(repository: Path, tmp_path: Path) -> None:
    (repository / "gone.py").write_text("")
    (repository / "picture.png").write_bytes(b"\0\1")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "second")
    for name, value in {"diff.noprefix": "true", "color.ui": "always", "diff.renames": "copies"}.items():
        git(repository, "config", name, value)  # which must not reach the patch
    expected = change_everything(repository)
    before = git(repository, "status", "--porcelain"), (repository / ".git" / "index").read_bytes()
    provenance.write_environment(tmp_path / "environment")
    assert (git(repository, "status", "--porcelain"), (repository / ".git" / "index").read_bytes()) == before
    git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "again"), "HEAD")
    git(tmp_path / "again", "apply", str(tmp_path / "environment" / "git.diff"))
    assert contents(tmp_path / "again") == expected
    assert len(expected) == 6


def test_a_change_within_the_same_second_as_the_commit_is_in_the_patch(repository: Path, tmp_path: Path) -> None:
    git(repository, "config", "core.trustctime", "false")  # the test can set the other time only
    file, index = repository / "code.py", repository / ".git" / "index"
    os.utime(file, (1e9, 1e9))
    git(repository, "update-index", "--refresh")
    file.write_text("a = 2\n")  # as long as before
    for path in (file, index):
        os.utime(path, (1e9, 1e9))
    provenance.write_environment(tmp_path / "environment")
    assert "+a = 2\n" in (tmp_path / "environment" / "git.diff").read_text()


def test_new_files_that_are_no_source_or_too_large_are_in_the_patch_by_name(repository: Path, tmp_path: Path) -> None:
    (repository / "notes.txt").write_text("secret")
    (repository / "large.json").write_text("[" + "1," * 50_000 + "1]")
    for number in range(11):
        (repository / f"part{number:02}.py").write_text(f"# {'x' * 95_000}\n")
    (repository / "line\nbreak.txt").write_text("")
    provenance.write_environment(tmp_path / "environment")
    lines = (tmp_path / "environment" / "git.diff").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ") and "x" * 9 not in line]
    assert "# not tracked: notes.txt" in comments
    assert "# not tracked: 'line\\nbreak.txt'" in comments
    assert comments[-2:] == ["# too large to be in here: large.json", "# too large to be in here: part10.py"]
    assert sum(line.startswith("diff --git") for line in lines) == 10
    assert provenance.code_tags()["lightrail.git_dirty"] == "true"


def test_what_recording_runs_makes_in_the_working_folder_is_no_change(repository: Path, tmp_path: Path) -> None:
    of_runs = ("mlflow.db", "mlflow.db-journal", "mlruns/lightrail/0/artifacts/config.yaml", "runs/mlflow.db")
    of_sweeps = ("sweeps.db", "runs/sweeps.db-journal", "sweep_jobs/submission_file_7.sh")
    for name in (*of_runs, *of_sweeps):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("")
    git(repository, "add", "runs/mlflow.db")
    git(repository, "commit", "--quiet", "--message", "a store, by mistake")
    (repository / "runs" / "mlflow.db").write_text("another run")
    assert provenance.code_tags()["lightrail.git_dirty"] == "false"
    provenance.write_environment(tmp_path / "environment")
    assert not (tmp_path / "environment" / "git.diff").exists()
    (repository / "code.py").write_text("a = 2\n")
    provenance.write_environment(tmp_path / "environment")
    assert (tmp_path / "environment" / "git.diff").read_text().count("diff --git") == 1


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository that lightrail's source is in, and that is not the working folder's."""
    source = tmp_path / "source"
    (source / "project").mkdir(parents=True)
    git(source, "init", "--quiet")
    git(source, "commit", "--quiet", "--allow-empty", "--message", "lightrail")
    (source / "project" / "changed.py").write_text("")
    monkeypatch.setattr(code_of_runs, "ROOT", source)
    return source


def test_the_source_of_lightrail_counts_when_it_is_another_repository(
    repository: Path, source: Path, tmp_path: Path
) -> None:
    tags = provenance.code_tags()
    assert tags["lightrail.git_sha"] == git(repository, "rev-parse", "HEAD")
    assert tags["lightrail.source_git_sha"] == git(source, "rev-parse", "HEAD")
    assert tags["lightrail.git_dirty"] == "true"
    (repository / "code.py").write_text("a = 2\n")
    provenance.write_environment(tmp_path / "environment")
    assert "+a = 2\n" in (tmp_path / "environment" / "git.diff").read_text()
    assert "b/project/changed.py\n" in (tmp_path / "environment" / "git.2.diff").read_text()


def test_the_code_is_each_file_with_its_digest_and_its_place_in_a_repository(
    repository: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "src" / "mine").mkdir(parents=True)
    (repository / "src" / "mine" / "model.py").write_text("from mine import parts\n")
    (repository / "src" / "mine" / "parts.py").write_text("b = 1\n")
    monkeypatch.setattr(code_of_runs, "_imported_files", lambda: iter([(repository / "src", "mine/model.py")]))
    provenance.write_environment(tmp_path / "environment")
    code = json.loads((tmp_path / "environment" / "code.json").read_text())
    assert code["working_folder"] == str(repository)
    assert [Path(item["folder"]).name for item in code["repositories"]] == ["repository", "source"]
    assert [item["commit"] for item in code["repositories"]] == [
        git(item, "rev-parse", "HEAD") for item in (repository, source)
    ]
    assert [item["patch"] for item in code["repositories"]] == ["git.diff", "git.2.diff"]
    own, brought = code["sources"]
    assert (own["repository"], own["inside"], list(own["files"])) == (1, ".", ["project/changed.py"])
    assert (brought["repository"], brought["inside"]) == (0, "src")
    assert brought["files"] == {
        name: code_of_runs.digest_of_content((repository / "src" / name).read_bytes())
        for name in ("mine/model.py", "mine/parts.py")
    }


def test_modules_in_memory_that_are_not_installed_are_code_of_the_run() -> None:
    names = {name for source in code_of_runs.source_folders() for name in source.files}
    assert {"project/cli.py", "datamodules/base.py", "tests/project/test_tracking_provenance.py"} < names
    assert not [name for name in names if name.startswith(("torch", "json", "pytest"))]


def test_a_file_brings_along_what_it_imports_anywhere_in_its_text(tmp_path: Path) -> None:
    texts = {
        "main.py": "import os\nimport near\ndef later():\n    from package.deep import thing\n",
        "near.py": "from package import other",
        "package/__init__.py": "",
        "package/deep.py": "from . import beside\nfrom .inner import name",
        "package/other.py": "this is no Python",
        "package/beside.py": "import main",
        "package/inner/__init__.py": "from ..above import name",
        "package/above.py": "name = 1",
        "package/unused.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert with_imports(tmp_path, ["main.py"], known=set()) == texts.keys() - {"package/unused.py"}
    assert with_imports(tmp_path, ["main.py"], known={"package/deep.py"}) >= {"package/deep.py", "near.py"}
    assert "package/above.py" not in with_imports(tmp_path, ["main.py"], known={"package/deep.py"})


def test_the_hardware_includes_what_moves_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = provenance.hardware()
    assert (facts["threads"], facts["OMP_NUM_THREADS"]) == (1, "3")
    assert facts["usable_cores"] >= 1
    assert facts["instructions"]
    assert "BLAS " in facts["arithmetic"]


def test_without_git_only_the_version_is_known(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(provenance.code_tags()) == ["lightrail.version"]
    provenance.write_environment(tmp_path / "environment")
    assert not (tmp_path / "environment" / "git.diff").exists()
    assert json.loads((tmp_path / "environment" / "code.json").read_text())["repositories"] == []


def test_what_cannot_be_recorded_does_not_fail_a_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as asked")

    (repository / "code.py").write_text("a = 2\n")
    monkeypatch.setattr(code_of_runs.Repository, "patch", fail)
    for name in ("packages", "hardware", "source_folders"):
        monkeypatch.setattr(provenance, name, fail)
    provenance.write_environment(tmp_path / "environment")
    assert provenance.code_tags()["lightrail.git_dirty"] == "true"
    assert caplog.text.count("cannot be recorded: as asked") == 5
