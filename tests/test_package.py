"""What is installed is one package, `lightrail`, which meets nobody else's names."""

import zipfile
from pathlib import Path

import yaml
from mlflow import MlflowClient

from lightrail.project.basics.catalogue import FOLDERS, ROOT
from lightrail.project.configuration import parse
from tests.support.installed import run
from tests.support.running import FOUR_STEPS, QUIET
from tests.support.tasks.pinyin import TINY, write_sentences

MINE = """
from pathlib import Path
from lightning.pytorch import Callback


class Witness(Callback):
    def on_fit_end(self, trainer, pl_module):
        Path(f"rank {trainer.global_rank}").write_text(str(trainer.world_size))
"""
COMMAND = ("-m", "lightrail")
SWEEP = {"base": "base.yaml", "metric": "val/loss", "direction": "minimize", "n_trials": 1}
"""Of one trial, which has two processes."""


def test_the_wheel_holds_one_package_with_all_that_is_shipped(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lightrail"}
    files = {
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".html")
    }
    shipped = {f"lightrail/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert shipped <= set(names)
    assert "lightrail/py.typed" in names


def test_packages_of_a_user_with_our_folders_names_are_left_alone_and_found(lightrail: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for folder in FOLDERS:
        (mine / folder).mkdir(parents=True)
        (mine / folder / "__init__.py").write_text("" if folder == "datamodules" else "raise ImportError('mine')")
    (mine / "datamodules" / "mine.py").write_text(MINE)
    allowed, two = "--allow_modules=datamodules.mine", ["--trainer.devices=2", "--trainer.strategy=ddp"]
    store = f"--tracking.uri=sqlite:///{mine}/mlflow.db"
    settings = [*TINY, *write_sentences(mine), *FOUR_STEPS, *QUIET, store]
    run(
        lightrail,
        mine,
        "-m",
        "lightrail",
        "fit",
        *settings,
        *two,
        allowed,
        "--trainer.callbacks=datamodules.mine.Witness",
    )
    assert {rank: (mine / f"rank {rank}").read_text() for rank in "01"} == {"0": "2", "1": "2"}
    (file,) = mine.glob("mlruns/*/*/artifacts/checkpoints/best.ckpt")
    run(
        lightrail,
        mine,
        "-m",
        "lightrail",
        "validate",
        f"--ckpt_path={file}",
        allowed,
        "--trainer.devices=1",
        "--trainer.strategy=auto",
    )
    (mine / "base.yaml").write_text(parse(settings).dump(), encoding="utf-8")
    space = {"model.optim.lr": {"choices": [0.01]}}
    definition = {**SWEEP, "space": space, "resources": {"workers": 1, "devices": 2, "threads": 1}}
    (mine / "one.yaml").write_text(yaml.safe_dump(definition))
    run(lightrail, mine, *COMMAND, "sweep", "--config=one.yaml", f"--storage=sqlite:///{mine}/sweeps.db")
    client = MlflowClient(f"sqlite:///{mine}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert sorted(own.data.tags["lightrail.kind"] for own in runs) == ["fit", "fit", "sweep"]
    assert {own.info.status for own in runs} == {"FINISHED"}
