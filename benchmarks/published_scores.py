"""Scores on public data compared with published ones: trains, tests, tracks each run in MLflow, and prints a table.

Run: python -m benchmarks.published_scores resume trec --data_dir ../shared/data
The settings are in benchmarks/published/NAME.yaml, or those of the shipped experiment of that name; arguments after
`--` are passed to `lightrail fit`, such as `-- --seed_everything 1 --tracking.uri sqlite:///scores.db`. The data sets
are not part of lightrail; --data_dir names their folder (classification/trec/TREC.train.all,
ner/resume/train.char.bmes, ...). Times are those of the whole run, from reading the files to the last figure.
"""

import argparse
import csv
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lightrail.project.basics.logs import set_up_logging
from lightrail.project.configuration import parse
from lightrail.project.running.fitting import FinishedRun, fit

SETTINGS = Path(__file__).parent / "published"
MSRA_TRAINING_SENTENCES = 50_658
"""Number of official training sentences in the archive; the official test sentences follow them."""


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    name: str
    value: float
    published: str


@dataclass(frozen=True)
class Benchmark:
    """One data set, with its files and its scores."""

    sources: Callable[[argparse.Namespace, Path], dict[str, str | Path]]
    """Function from the arguments and a temporary folder to the settings for the files."""
    scores: Callable[[FinishedRun, argparse.Namespace], list[Score]]


def main() -> None:
    arguments = _arguments()
    set_up_logging()
    lines = []
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            sources = BENCHMARKS[name].sources(arguments, Path(folder))
            started = time.perf_counter()
            run = fit(
                parse(
                    [
                        f"--config={_settings(name)}",
                        *(f"--{setting}={value}" for setting, value in sources.items()),
                        *arguments.more,
                    ]
                )
            )
            minutes = (time.perf_counter() - started) / 60
        lines += [(name, score, minutes, run.run_id) for score in BENCHMARKS[name].scores(run, arguments)]
    print(f"\n{'data':14} {'score':44} {'lightrail':>9} {'minutes':>7}  {'published':52} run")
    for name, score, minutes, run_id in lines:
        print(f"{name:14} {score.name:44} {score.value:9.4f} {minutes:7.1f}  {score.published:52} {run_id}")


def _arguments() -> argparse.Namespace:
    given, more = (sys.argv[1:], [])
    if "--" in given:
        given, more = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(BENCHMARKS))
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minilm", type=Path, help="folder of MiniLM-L6-H384, for sst2")
    parser.add_argument("--fashion_mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args(given)
    arguments.more = more
    return arguments


def _settings(name: str) -> str:
    """The file of this benchmark's settings, or the shipped experiment of that name."""
    own = SETTINGS / f"{name}.yaml"
    return str(own) if own.exists() else name


def _resume(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    folder = arguments.data_dir / "ner" / "resume"
    return _splits(*(folder / f"{split}.char.bmes" for split in ("train", "dev", "test")))


def _weibo(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    folder = arguments.data_dir / "ner" / "weibo"
    return _splits(*(folder / f"weiboNER_2nd_conll.{split}" for split in ("train", "dev", "test")))


def _ncbi_disease(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    folder = arguments.data_dir / "ner" / "ncbi_disease"
    return _splits(*(folder / f"{split}.tsv" for split in ("train", "devel", "test")))


def _msra(arguments: argparse.Namespace, folder: Path) -> dict[str, str | Path]:
    """Divide the archive's file as in the shared task; the validation split is taken from the training part."""
    with zipfile.ZipFile(arguments.data_dir / "ner" / "msra" / "dh_msra.zip") as archive:
        [member] = [name for name in archive.namelist() if name.endswith(".txt") and "MACOSX" not in name]
        lines = archive.read(member).decode("utf-8").splitlines()
    blocks = [list(block) for is_sentence, block in groupby(lines, key=lambda line: bool(line.strip())) if is_sentence]
    for split, part in (("train", blocks[:MSRA_TRAINING_SENTENCES]), ("test", blocks[MSRA_TRAINING_SENTENCES:])):
        text = "\n\n".join("\n".join(block) for block in part)
        (folder / f"{split}.conll").write_text(text + "\n", encoding="utf-8")
    return {"data.path": folder / "train.conll", "data.test_path": folder / "test.conll"}


def _trec(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    folder = arguments.data_dir / "classification" / "trec"
    return {"data.path": folder / "TREC.train.all", "data.test_path": folder / "TREC.test.all"}


def _sst2(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    """Tested on GLUE's dev split as published scores are, and therefore validated on the labelled test split."""
    folder = arguments.data_dir / "classification" / "glue_sst2"
    if arguments.minilm is None:
        raise SystemExit("sst2 needs --minilm, a folder with MiniLM-L6-H384 in the format of transformers")
    return {
        **_splits(folder / "train.tsv", folder / "test-labeled.tsv", folder / "dev.tsv"),
        "data.tokenizer": arguments.minilm,
        "model.encoder.checkpoint": arguments.minilm,
    }


def _chnsenticorp(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    folder = arguments.data_dir / "classification" / "chnsenticorp"
    return _splits(*(folder / f"{split}.tsv" for split in ("train", "dev", "test")))


def _fashion_mnist(arguments: argparse.Namespace, _: Path) -> dict[str, str | Path]:
    names = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    training, test = (arguments.fashion_mnist / name for name in names)
    return {"data.path": training, "data.test_path": test}


def _tinyshakespeare(arguments: argparse.Namespace, folder: Path) -> dict[str, str | Path]:
    """Trained on the first nine tenths; the rest is for validation and test, as for published scores."""
    text = (arguments.data_dir / "lm" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    end = len(text) * 9 // 10
    for name, part in (("train", text[:end]), ("rest", text[end:])):
        (folder / f"{name}.txt").write_text(part, encoding="utf-8")
    return _splits(folder / "train.txt", folder / "rest.txt", folder / "rest.txt")


def _splits(train: Path, validation: Path, test: Path) -> dict[str, str | Path]:
    return {"data.path": train, "data.validation_path": validation, "data.test_path": test}


def _entity_f1(published: str) -> Callable[[FinishedRun, argparse.Namespace], list[Score]]:
    return lambda run, _: [Score("entity F1, strict", run.metrics["test/f1"], published)]


def _accuracy(published: str) -> Callable[[FinishedRun, argparse.Namespace], list[Score]]:
    return lambda run, _: [Score("accuracy", run.metrics["test/accuracy"], published)]


def _loss(published: str) -> Callable[[FinishedRun, argparse.Namespace], list[Score]]:
    return lambda run, _: [Score("validation loss, nats a character", run.metrics["test/loss"], published)]


def _with_and_without_leak(run: FinishedRun, arguments: argparse.Namespace) -> list[Score]:
    """Accuracy on all test texts, and on those that do not occur in the training file."""
    path = arguments.data_dir / "classification" / "chnsenticorp" / "train.tsv"
    seen = {row["text_a"] for row in _table(path)}
    assert run.predictions is not None
    rows = run.predictions.select(["text", "prediction", "target"]).to_pylist()
    new = [row["prediction"] == row["target"] for row in rows if row["text"] not in seen]
    return [
        Score("accuracy", run.metrics["test/accuracy"], "word LSTM from scratch 0.923; RBT3 (pretrained) 0.928"),
        Score(f"accuracy on the {len(new)} texts not in train", sum(new) / len(new), ""),
    ]


def _table(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)


BENCHMARKS = {
    "resume": Benchmark(_resume, _entity_f1("char LSTM-CRF 0.9348; Lattice LSTM 0.9446")),
    "weibo": Benchmark(_weibo, _entity_f1("char LSTM-CRF 0.5277; Lattice LSTM 0.5879")),
    "msra": Benchmark(_msra, _entity_f1("char LSTM-CRF 0.8881; Lattice LSTM 0.9318")),
    "ncbi_disease": Benchmark(_ncbi_disease, _entity_f1("LSTM-CRF with biomedical vectors 0.844 (Habibi 2017)")),
    "trec": Benchmark(_trec, _accuracy("CNN from random vectors 0.912 (Kim 2014)")),
    "sst2": Benchmark(_sst2, _accuracy("MiniLM-L6-H384 0.915")),
    "chnsenticorp": Benchmark(_chnsenticorp, _with_and_without_leak),
    "fashion_mnist": Benchmark(_fashion_mnist, _accuracy("two convolutions 0.916")),
    "digits": Benchmark(lambda *_: {}, _accuracy("SVC 0.969")),
    "tinyshakespeare": Benchmark(_tinyshakespeare, _loss("nanoGPT's CPU recipe 1.88")),
    "tinyshakespeare_two_minutes": Benchmark(_tinyshakespeare, _loss("nanoGPT's CPU recipe 1.88")),
}


if __name__ == "__main__":
    main()
