"""`lightrail compare`: runs side by side, with significance tests on their predictions."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightrail.project.basics.catalogue import import_allowed
from lightrail.project.basics.errors import ConfigError, shown
from lightrail.project.basics.option_parser import OptionParser
from lightrail.project.tracking.settings import TrackingConfig
from lightrail.project.tracking.store import check_folder, open_store, store_uri

if TYPE_CHECKING:
    from lightrail.project.comparing.comparison import Comparison
    from lightrail.project.comparing.metrics_alone import MetricsAlone
    from lightrail.project.comparing.requiring import Requirement

FORMATS = {".md": "markdown", ".html": "html", ".json": "json"}
LEAST_RESAMPLES = 100


def run(arguments: list[str]) -> int:
    """Compare runs, and write Markdown, HTML or JSON.

    Returns: 1 where something required is not shown, else 0. Raises: ConfigError for runs that cannot be compared.
    """
    options = _parser().read(arguments)
    chosen = _format(options)
    required = None if options.require is None else _required(options.require)
    if options.output:
        check_folder(Path(options.output).absolute().parent, "--output")  # before the computation
    comparison = compared(
        options.runs,
        TrackingConfig(uri=options.uri),
        options.metric,
        num_resamples=options.resamples,
        num_examples=options.num_examples,
        allow_modules=options.allow_modules.split(","),
    )
    unmet = [] if required is None else list(required.unmet(comparison))
    _write(formatted(comparison, chosen), options)
    sys.stderr.writelines(f"lightrail: --require {options.require}: {sentence}\n" for sentence in unmet)
    return int(bool(unmet))


def _required(text: str) -> "Requirement":
    from lightrail.project.comparing.requiring import Requirement

    return Requirement.read(text)


def _write(text: str, options: argparse.Namespace) -> None:
    if options.output is None:
        sys.stdout.write(text)
        return
    try:
        Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--output {shown(options.output)}: {error.strerror}. Name a file that may be written."
        ) from error
    sys.stdout.write(f"{len(options.runs)} runs compared in {options.output}\n")


def _parser() -> OptionParser:
    parser = OptionParser("compare")
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--output")
    parser.add_argument("--format", choices=list(FORMATS.values()))
    parser.add_argument("--json", dest="format", action="store_const", const="json")
    parser.add_argument("--require")
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


def compared(
    runs: Sequence[str],
    tracking: TrackingConfig,
    metrics: Sequence[str] = (),
    *,
    num_resamples: int = 2_000,
    num_examples: int = 10,
    allow_modules: Sequence[str] = (),
) -> "Comparison | MetricsAlone":
    """Compare runs, named as for `find_run`, with the first one; those of plain modules by their metrics alone.

    Raises: ConfigError for runs that cannot be compared.

    Args:
        metrics: all of these are tested; none: all that the runs share, of which the main one is tested.
        allow_modules: modules of user-defined metrics, which are built from their class names.
    """
    if len(runs) < 2:
        raise ConfigError(
            f"{len(runs)} runs to compare. Name at least two: lightrail compare RUN RUN ...; the first is the baseline."
        )
    if num_resamples < LEAST_RESAMPLES:
        raise ConfigError(f"--resamples {num_resamples}: give at least {LEAST_RESAMPLES}, the minimum for intervals.")
    if num_examples < 0:
        raise ConfigError(f"--num_examples {num_examples}: give 0 or more.")
    from lightrail.project.comparing.comparison import compare
    from lightrail.project.comparing.entries import find_entry
    from lightrail.project.comparing.metrics_alone import compare_metrics, have_metrics_alone

    import_allowed(allow_modules)
    uri = store_uri(tracking)
    client = open_store(uri, create=False)
    if have_metrics_alone(client, runs):
        return compare_metrics(client, runs, metrics)
    return compare([find_entry(client, named) for named in runs], uri, metrics, num_resamples, num_examples)


def formatted(comparison: "Comparison | MetricsAlone", chosen: str) -> str:
    """Format a comparison as `markdown`, `html` or `json`. Raises: ConfigError where the form needs intervals."""
    from lightrail.project.comparing.metrics_alone import NOT_TESTED, MetricsAlone

    if isinstance(comparison, MetricsAlone):
        if chosen == "html":
            raise ConfigError(f"--format html: it draws intervals. {NOT_TESTED} Use markdown or json.")
        return comparison.as_json() if chosen == "json" else comparison.as_markdown()
    if chosen == "html":
        from lightrail.project.comparing.page import as_html

        return as_html(comparison)
    if chosen == "json":
        from lightrail.project.comparing.comparison import as_json

        return as_json(comparison)
    from lightrail.project.comparing.markdown import as_markdown

    return as_markdown(comparison)
