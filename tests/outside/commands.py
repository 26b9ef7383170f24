"""Every command on the task of the installed package, in one process. Run in the folder of its test."""

import sys
from pathlib import Path

import yaml

from lightrail.project.cli import run

sys.path.insert(0, ".")
from test_number_words import TestNumberSpeller

FOLDER = Path.cwd()
STORE = f"--tracking.uri=sqlite:///{FOLDER}/mlflow.db"
SETTINGS = [
    *TestNumberSpeller().settings(FOLDER),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false"),
    *("--trainer.max_steps=4", "--trainer.val_check_interval=1", "--data.batch.size=4", STORE),
]
SWEEP = {
    "base": "base.yaml",
    "metric": "val/weighted_accuracy",
    "direction": "maximize",
    "n_trials": 1,
    "space": {"model.width": {"choices": [8]}},
    "resources": {"workers": 1, "threads": 1},
    "overrides": dict(setting.removeprefix("--").split("=", 1) for setting in SETTINGS[1:]),
}


def command(*arguments: str) -> None:
    if status := run(arguments):
        sys.exit(f"{arguments}: {status}")


if __name__ == "__main__":
    command("list")
    for name, seed in (("first", 0), ("second", 1)):
        command("fit", *SETTINGS, f"--tracking.run_name={name}", f"--seed_everything={seed}")
    command("compare", "first", "second", "--output=compared.json", STORE)
    best = min(FOLDER.glob("mlruns/*/*/artifacts/checkpoints/best.ckpt"))
    command("generate", str(best), "--prompt", "21=", "--max_tokens=5")
    command("export", str(best), "--output=exported", STORE)
    (FOLDER / "numbers.csv").write_text("number\n7\n")
    command("predict", f"--ckpt_path={best}", "--data.path=numbers.csv", "--output=words.jsonl")
    (FOLDER / "base.yaml").write_text(yaml.safe_dump({"model": "NumberSpeller"}))
    (FOLDER / "one.yaml").write_text(yaml.safe_dump(SWEEP))
    command("sweep", "--config=one.yaml", f"--storage=sqlite:///{FOLDER}/sweeps.db")
