"""Where the files of a run lie on this machine."""

import os
import urllib.parse
from pathlib import Path
from typing import NamedTuple


class RunFolders(NamedTuple):
    """A run's two places: what is shown as its artifacts, and what is its own business beside them."""

    artifacts: Path
    journal: Path
    is_store: bool
    """Whether `artifacts` is the artifact store itself, so that nothing needs to be uploaded."""

    @property
    def lock(self) -> Path:
        """Held by the process that the run belongs to."""
        return self.journal.with_name("run.lock")

    @property
    def uploaded(self) -> Path:
        """Notes what of `artifacts` the store has."""
        return self.journal.with_name("uploaded.json")

    @property
    def uploading(self) -> Path:
        """Holds the file that is being uploaded."""
        return self.journal.with_name("uploading")


def run_folders(run_id: str, artifact_uri: str) -> RunFolders:
    """Return the folders of a run whose artifacts MLflow keeps at `artifact_uri`.

    With a local artifact store that is the run's own folder there. With a remote one it is
    `$XDG_STATE_HOME/lightrail/RUN_ID` (`~/.local/state/...`), from where the artifacts are uploaded.
    """
    local = local_path(artifact_uri)
    if local is not None:
        return RunFolders(local, local.parent / "metrics.jsonl", is_store=True)
    folder = state_folder() / run_id
    return RunFolders(folder / "artifacts", folder / "metrics.jsonl", is_store=False)


def local_path(uri: str) -> Path | None:
    """Return the folder that `uri` names on this machine, None for a remote one."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(urllib.parse.unquote(parts.path)) if parts.scheme else Path(uri)


def state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lightrail"
