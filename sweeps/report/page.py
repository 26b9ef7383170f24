"""The report of a sweep as one self-contained HTML file: the trials as a table, and all figures."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lightrail.project.basics.tables import html_table
from lightrail.project.figures.style import STYLE
from lightrail.sweeps.report.tables import seconds_cell, setting_cells, settings_of, short_names, value_cells
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import Outcome

OWN_STYLE = """
tr.best td { font-weight: 600; }
table.numbers td:last-child { white-space: normal; min-width: 14em; }
.js-plotly-plot .plotly .gtitle, .js-plotly-plot .plotly .legendtext { fill: var(--ink) !important; }
"""


def report_page(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], sweep: Sweep, lead: str, figures: Sequence[go.Figure]
) -> str:
    """Return the HTML page of a sweep: lead, table of trials and figures; all text from the study is escaped.

    Args:
        best: trials whose rows are highlighted.
        lead: text of the first paragraph.
    """
    title = html.escape(f"Sweep {sweep.name}")
    drawn = [own.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}) for own in figures]
    script = f"<script>{get_plotlyjs()}</script>\n" if figures else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n{script}</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"<section>\n<h2>Trials</h2>\n{_table(outcomes, best, sweep)}\n</section>\n"
        + "".join(f'<section class="figure wide">\n{own}\n</section>\n' for own in drawn)
        + "</main>\n</body>\n</html>\n"
    )


def _table(outcomes: Sequence[Outcome], best: Sequence[Outcome], sweep: Sweep) -> str:
    labels = settings_of(outcomes, sweep)
    metrics = [metric.removeprefix("val/") for metric in sweep.config.metrics]
    head = ["trial", "state", *metrics, "last step", "seconds", *short_names(labels).values(), "failure"]
    rows = []
    for own in outcomes:
        step = "" if own.last_step is None else str(own.last_step)
        facts = [str(own.number), own.state, *value_cells(own, sweep), step, seconds_cell(own)]
        rows.append([html.escape(text) for text in (*facts, *setting_cells(own, labels), own.failure)])
    numbers = {own.number for own in best}
    highlighted = [place for place, own in enumerate(outcomes) if own.number in numbers]
    return html_table([html.escape(name) for name in head], rows, "numbers", best=highlighted)
