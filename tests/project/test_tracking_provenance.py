"""What a run was made with."""

import subprocess
from pathlib import Path

import pytest

from project.tracking import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit; it is the working folder, and lightrail's source is in none."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(provenance, "SOURCE_FOLDER", tmp_path)
    return folder


def test_a_clean_repository_gives_its_commit_and_no_difference(repository: Path) -> None:
    tags = provenance.code_tags()
    assert tags["lightrail.git_sha"] == git(repository, "rev-parse", "HEAD")
    assert tags["lightrail.git_dirty"] == "false"
    assert provenance.git_difference() == ""


def test_changed_and_new_files_are_in_the_difference(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").write_text("a = 2\n")
    (repository / "new.py").write_text("")
    assert provenance.code_tags()["lightrail.git_dirty"] == "true"
    provenance.write_environment(tmp_path / "environment")
    difference = (tmp_path / "environment" / "git.diff").read_text()
    assert "-a = 1\n+a = 2\n" in difference
    assert "# not tracked: new.py\n" in difference


def test_the_source_of_lightrail_counts_when_it_is_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "--quiet")
    git(source, "commit", "--quiet", "--allow-empty", "--message", "lightrail")
    (source / "changed").write_text("")
    monkeypatch.setattr(provenance, "SOURCE_FOLDER", source)
    tags = provenance.code_tags()
    assert tags["lightrail.git_sha"] == git(repository, "rev-parse", "HEAD")
    assert tags["lightrail.source_git_sha"] == git(source, "rev-parse", "HEAD")
    assert tags["lightrail.git_dirty"] == "true"


def test_without_git_only_the_version_is_known(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(provenance.code_tags()) == ["lightrail.version"]
    provenance.write_environment(tmp_path / "environment")
    assert not (tmp_path / "environment" / "git.diff").exists()
