"""The guide to one's own LightningModule: its code is written down, and its commands run, as they stand there."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightrail.project.basics.catalogue import ROOT
from lightrail.project.cli import main
from tests.support.callbacks import ALLOW
from tests.support.running import Outcome, lightrail

GUIDE = (ROOT / "docs" / "own_lightning_module.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=2"]
ADDED = {
    **dict.fromkeys(("fit", "check", "validate", "test", "predict"), QUIET),
    "sweep": [f"--overrides.{setting[2:]}" for setting in QUIET]
    + ["--confirm.top=0", "--resources.workers=1", "--resources.threads=1"],
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:The '.*_dataloader' does not have many workers",
)


def interrupted(folder: Path) -> str:
    stop = [ALLOW, "--trainer.callbacks=Interrupt", f"--trainer.callbacks.marker={folder}/marker"]
    assert main(["fit", "--config=my.yaml", *QUIET, *stop]) == 130
    return lightrail("list", "runs").out.splitlines()[1].split()[0]


def run(arguments: list[str]) -> Outcome:
    outcome = lightrail(*arguments, *ADDED.get(arguments[0], []))
    assert outcome.status == 0, (arguments, outcome.err)
    return outcome


@pytest.fixture(autouse=True)
def only_this_package() -> Iterator[None]:
    """Other guides have a package of this name too."""
    before = sys.modules.pop("my_package", None)
    yield
    sys.modules.pop("my_package", None)
    if before is not None:
        sys.modules["my_package"] = before


def test_the_guide_to_ones_own_lightning_module_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of the processes of trials
    monkeypatch.syspath_prepend(tmp_path)
    blocks = BLOCK.findall(GUIDE)
    files = {"python": ["my_package.py"], "yaml": ["my.yaml", "sweep.yaml"]}
    for language, names in files.items():
        texts = [text for own, text in blocks if own == language]
        for name, text in zip(names, texts, strict=True):
            (tmp_path / name).write_text(text, encoding="utf-8")
    run_id = other_id = ""
    for text in (text for language, text in blocks if not language):
        for line in text.splitlines():
            _, *words = shlex.split(line, comments=True)
            if words[0] == "resume":
                run_id, words = interrupted(tmp_path), [*words, ALLOW.replace("=", "=my_package,")]
            outcome = run([word.replace("RUN_ID", run_id).replace("OTHER_ID", other_id) for word in words])
            if words[0] == "fit" and "=" in outcome.last_line:
                run_id, other_id = outcome.run_id, run_id
    assert (tmp_path / "predictions.jsonl").read_text().count("\n") == 16
    assert "finished" in lightrail("sweep", "--config=sweep.yaml", "--status").out
    status = json.loads(lightrail("sweep", "--config=sweep.yaml", "--status", "--json").out)
    assert len(status["trials"]) == status["n_trials"]
