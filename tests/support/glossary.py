"""Words that our prose avoids, and standard terms. `python -m tests.support.glossary [FOLDER ...]` prints the hits."""

import io
import itertools
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

from lightrail.project.basics.catalogue import ROOT

GLOSSARY = {
    r"g(o|oes|oing|one) on|went on": ("resume, continue", "it goes on"),
    r"beg[aiu]n(s|ning)? again|anew|start(s|ed|ing)? over": ("restart", "# begins again"),
    r"g[ia]v(e|es|en|ing) up": ("pruned, stopped", "was given up"),
    r"rehears\w*": ("dry run", "a rehearsal"),
    r"pictures?": ("figure (drawn), image (data)", "the picture"),
    r"filler batch(es)?": ("padding batch", "a filler batch"),
    r"shares? of|share that": ("fraction of", "Share of weights"),
    r"so many|as many as (was|were) asked( for)?": ("N, the requested number", "so many of them"),
    r"spell(s|ed|t)?": ("decode to, cover", "characters they spell"),
    r"foret(ell|old)\w*": ("predict", "is foretold"),
    r"lifelines?": ("liveness pipe", "a lifeline"),
    r"keepers?": ("heartbeat, owner", "its keeper"),
    r"(whose|its|their|his|the) turn": ("lock", "waits for its turn"),
    r"(is|are|was|were|be) told(?! apart| from)|told of": ("is notified, receives", "is told"),
    r"(MLflow|Optuna|Lightning|store|server|log) (tell|told|say|said)s?": ("reports, states", "MLflow tells"),
    r"sa(ys|id) so": ("reports", "and says so"),
    r"to be had": ("available", "none is to be had"),
    r"at hand(?!-)": ("available", "is at hand"),
    r"words (is|are) above": ("output above", "its words are above"),
    r"stand(s|ing)? in(?!\w)": ("is in, occurs in, replaces", "texts that stand in two"),
    r"manners": ("defaults", "gives it manners"),
    r"in the mean": ("on average", "better in the mean"),
    r"(packages|code|settings) of then": ("of that run", "the packages of then"),
    r"(right|wrong|whole|every|best|model's) answers?|answers? of (a|the) model": ("prediction", "a wrong answer"),
    r"signs": ("characters, tokens", "a text of 20 signs"),
    r"(a|the|each|every|which) measure": ("metric", "a measure of each"),
    r"token numbers?": ("token ids", "token numbers, [B]"),
    r"of (a|one|the|this|that|its|another|which|what) kind": ("type", "an error of that kind"),
}
"""Words that are not the field's (a space stands for any break of a line), with the standard term and an example."""
FIRST_LINE = re.compile(r'"""(The same (with|for|of|as|between)|Of (each|every|its|a) |As |What came)')
BREAK = r"""(?:[#>'"]|\s|\bf")+"""
NOT_STANDARD = {
    re.compile(rf"(?<![\w-])(?:{words.replace(' ', BREAK)})\b", re.IGNORECASE): standard
    for words, (standard, _) in GLOSSARY.items()
} | {FIRST_LINE: "a first line that stands alone"}
WORD_IS_RIGHT: dict[tuple[str, str], str] = {}
"""File and words that are meant as they are, with the reason."""
PROSE = (
    "project",
    "sweeps",
    "datamodules",
    "lightning_modules",
    "lightrail/testing",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
)


def words_that_are_not_standard(name: str, text: str) -> list[str]:
    """Return `file:line: words -> standard term` for each hit in the prose of a file: Markdown, comments and strings.

    A string without a space is a key or a name, and no prose.
    """
    hits = [(found, standard) for words, standard in NOT_STANDARD.items() for found in words.finditer(text)]
    if name.endswith(".py") and hits:
        starts = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        is_prose = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
        spans = [
            (starts[own.start[0] - 1] + own.start[1], starts[own.end[0] - 1] + own.end[1])
            for own in tokens
            if own.type in is_prose and " " in own.string
        ]
        hits = [hit for hit in hits if any(start <= hit[0].start() < end for start, end in spans)]
    found = ((text.count("\n", 0, hit.start()) + 1, " ".join(hit[0].split()), standard) for hit, standard in hits)
    return [
        f"{name}:{line}: {words} -> {standard}"
        for line, words, standard in sorted(found)
        if (name, words) not in WORD_IS_RIGHT
    ]


def hits_in(*folders: str) -> list[str]:
    """Return the hits in all Python and Markdown files of folders, or in files."""
    places = [ROOT / folder for folder in folders]
    files: list[Path] = [
        file for own in places for file in ([own] if own.is_file() else [*own.rglob("*.py"), *own.rglob("*.md")])
    ]
    names = {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}
    return [hit for name, file in names.items() for hit in words_that_are_not_standard(name, file.read_text("utf-8"))]


if __name__ == "__main__":
    hits = hits_in(*(sys.argv[1:] or PROSE))
    print("\n".join(hits))  # noqa: T201
    print(Counter("/".join(hit.partition(":")[0].split("/")[:-1]) or "." for hit in hits))  # noqa: T201
