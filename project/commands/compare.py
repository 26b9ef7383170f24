"""`lightrail compare`: runs side by side, with significance tests on their predictions."""

import argparse
import sys
from pathlib import Path

from lightrail.project.basics.catalogue import import_allowed
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import check_folder, open_store, store_uri

FORMATS = {".md": "markdown", ".html": "html", ".json": "json"}
LEAST_RESAMPLES = 100


def run(arguments: list[str]) -> int:
    """Compare runs, and write Markdown, HTML or JSON. Raises: ConfigError for runs that cannot be compared."""
    options = _parser().read(arguments)
    chosen = _format(options)
    _check(options)
    if options.output:
        check_folder(Path(options.output).absolute().parent, "--output")  # before the computation
    text = _compared(options, chosen)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    try:
        Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--output {shown(options.output)}: {error.strerror}. Name a file that may be written."
        ) from error
    sys.stdout.write(f"{len(options.runs)} runs compared in {options.output}\n")
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("compare")
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--output")
    parser.add_argument("--format", choices=list(FORMATS.values()))
    parser.add_argument("--metric", nargs="+", action="extend", default=[])
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--num_examples", type=int, default=10)
    parser.add_argument("--allow_modules", default="")
    return parser


def _format(options: argparse.Namespace) -> str:
    """Return the format given by `--format`, else by the output file's ending, else Markdown."""
    ending = Path(options.output).suffix.lower() if options.output else ".md"
    if options.format is None and ending not in FORMATS:
        raise ConfigError(f"--output {shown(options.output)}: unknown format. End the name in {', '.join(FORMATS)}.")
    return str(options.format or FORMATS[ending])


def _check(options: argparse.Namespace) -> None:
    if len(options.runs) < 2:
        raise ConfigError(
            f"{len(options.runs)} runs to compare. Name at least two: lightrail compare RUN RUN ...; the first is the "
            f"baseline."
        )
    if options.resamples < LEAST_RESAMPLES:
        raise ConfigError(
            f"--resamples {options.resamples}: give at least {LEAST_RESAMPLES}, the minimum for intervals."
        )
    if options.num_examples < 0:
        raise ConfigError(f"--num_examples {options.num_examples}: give 0 or more.")


def _compared(options: argparse.Namespace, chosen: str) -> str:
    from lightrail.project.comparing.comparison import compare
    from lightrail.project.comparing.entries import find_entry
    from lightrail.project.comparing.metrics_alone import NOT_TESTED, compare_metrics, have_metrics_alone

    import_allowed(options.allow_modules.split(","))  # user-defined metrics are built from their class names
    uri = store_uri(TrackingConfig(uri=options.uri))
    client = open_store(uri, create=False)
    if have_metrics_alone(client, options.runs):
        if chosen == "html":
            raise ConfigError(f"--format html: it draws intervals. {NOT_TESTED} Use markdown or json.")
        return compare_metrics(client, options.runs, options.metric, chosen)
    entries = [find_entry(client, named) for named in options.runs]
    comparison = compare(entries, uri, options.metric, options.resamples, options.num_examples)
    if chosen == "html":
        from lightrail.project.comparing.page import as_html

        return as_html(comparison)
    if chosen == "json":
        from lightrail.project.comparing.comparison import as_json

        return as_json(comparison)
    from lightrail.project.comparing.markdown import as_markdown

    return as_markdown(comparison)
