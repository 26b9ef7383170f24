"""A trained run beside the input methods people use: accuracy and speed on the same sentences, in turn, by one thread.

Character accuracy is 1 - edits / hanzi, in per cent, with the syllables given; letters are typed without spaces, and
scored by all edits. Speed is of all sentences with syllables, together and one alone, in time of the processor.
libime and libpinyin are compiled against their Debian packages, and skipped without them; they convert each part
between punctuation, in the order in which it comes, and learn nothing. A run is read as `lightrail predict` does.
Run: python -m benchmarks.pinyin --runs NAME --data_dir ../shared/data (five minutes; --most 100: one)
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.pinyin.corpora import FILES, Corpus, read_letters, read_syllables
from benchmarks.pinyin.engines import Converted, Engine, LightrailEngine, SkippedError, libime, libpinyin
from lightrail.project.basics.errors import Refusal
from lightrail.project.provenance.recording import hardware

Rounds = list[dict[str, Converted]]


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder = arguments.data_dir / "pinyin"
    corpora = [read_syllables(folder / "test" / f"{name}.tsv", arguments.most) for name in FILES]
    letters, by_swiftkey = read_letters(folder / "swiftkey", arguments.most)
    with tempfile.TemporaryDirectory() as own:
        makers: dict[str, Callable[[], Engine]] = {"libime": partial(libime, Path(own))}
        makers["libpinyin"] = partial(libpinyin, Path(own))
        makers |= {f"lightrail {run}": partial(LightrailEngine, run) for run in arguments.runs}
        engines, skipped = _made(makers)
        rounds: dict[str, Rounds] = {name: [] for name in engines}
        for number in range(arguments.rounds):
            for name, engine in engines.items():
                # The letters are scored, not timed: one round is enough.
                every = [*corpora, *([letters] if number == 0 else [])]
                rounds[name].append({corpus.name: engine.convert(corpus.typed) for corpus in every})
    print(f"{hardware()['cpu']}, one thread; letters are {sum(map(len, letters.expected)):,} characters\n")
    print(f"{'':24}{''.join(f'{name:>9}' for name in FILES)}{'letters':>9}{'sentences/s':>13}{'ms alone':>10}")
    for name, reason in skipped.items():
        print(f"{name:24} skipped: {reason}")
    for name, measured in rounds.items():
        print(_line(name, measured, corpora, letters))
    print(f"{'SwiftKey 6.4.8, 2017':24}{'':{9 * len(FILES)}}{letters.num_edits(by_swiftkey):9}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], help="runs or checkpoints of lightrail, as predict names them")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"), help="folder with pinyin/test")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is timed; the median counts")
    parser.add_argument("--most", type=int, help="sentences of each file; all of them if not given")
    return parser.parse_args()


def _made(makers: Mapping[str, Callable[[], Engine]]) -> tuple[dict[str, Engine], dict[str, str]]:
    """Return the engines that can be used here, and why others cannot."""
    engines, skipped = {}, {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except (SkippedError, Refusal) as error:
            skipped[name] = str(error)
    return engines, skipped


def _line(name: str, rounds: Rounds, corpora: list[Corpus], letters: Corpus) -> str:
    first = rounds[0]
    scores = [100 * corpus.accuracy(first[corpus.name].sentences) for corpus in corpora]
    seconds = statistics.median(sum(own[corpus.name].seconds for corpus in corpora) for own in rounds)
    alone = statistics.median(statistics.mean(own[corpus.name].ms_alone for corpus in corpora) for own in rounds)
    accuracies = "".join(f"{score:9.2f}" for score in scores)
    edits, rate = letters.num_edits(first[letters.name].sentences), sum(len(own.typed) for own in corpora) / seconds
    return f"{name:24}{accuracies}{edits:9}{rate:13.0f}{alone:10.1f}"


if __name__ == "__main__":
    main()
