"""What the figures of a study show of its trials, whatever their state, and on any paper."""

from pathlib import Path

import optuna
import pytest
from matplotlib.colors import to_rgb
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from lightrail.sweeps.report.plots import COLORS, Objective, history, parallel, pareto_front, slices
from lightrail.sweeps.report.still import draw_still

ACCURACY, LOSS = Objective(0, "val/accuracy", True), Objective(1, "val/loss", False)
RATE, WIDTH = FloatDistribution(1e-4, 1.0, log=True), CategoricalDistribution([8, 16, 128])


@pytest.fixture
def trials() -> list[FrozenTrial]:
    """Three complete trials, one of them without a width, a pruned and a failed one."""
    study = optuna.create_study(directions=["maximize"])
    kinds: dict[str, BaseDistribution] = {"lr": RATE, "width": WIDTH}
    for value, rate, width in ((0.5, 0.01, 8), (0.9, 0.1, 128), (0.7, 0.001, None)):
        params = {"lr": rate} if width is None else {"lr": rate, "width": width}
        own = {name: kinds[name] for name in params}
        study.add_trial(create_trial(value=value, params=params, distributions=own, intermediate_values={1: value}))
    for state, reported in ((TrialState.PRUNED, {1: 0.3, 2: 0.4}), (TrialState.FAIL, {1: 0.2})):
        params = {"lr": 1.0, "width": 16}
        study.add_trial(create_trial(state=state, params=params, distributions=kinds, intermediate_values=reported))
    return study.get_trials()


def test_trials_that_were_pruned_are_shown_at_their_last_report(trials: list[FrozenTrial]) -> None:
    shown = {trace.name: (list(trace.x), list(trace.y)) for trace in history(trials, 1, ACCURACY).data}

    assert shown == {
        "best so far": ([0, 1, 2], [0.5, 0.9, 0.9]),
        "failed trials": ([4], [0.2]),
        "pruned trials": ([3], [0.4]),
        "complete trials": ([0, 2], [0.5, 0.7]),
        "trial 1, the best": ([1], [0.9]),
    }


def test_a_panel_has_the_trials_that_have_its_setting_and_choices_in_their_order(trials: list[FrozenTrial]) -> None:
    figure = slices(trials, 1, ACCURACY, ["lr", "width"])
    of_width = {trace.name: list(trace.x) for trace in figure.data if trace.xaxis == "x2"}

    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis2.ticktext) == ["8", "16", "128"]
    assert of_width == {"failed trials": [1], "pruned trials": [1], "complete trials": [0], "trial 1, the best": [2]}


def test_lines_leave_out_the_setting_that_a_trial_lacks(trials: list[FrozenTrial]) -> None:
    lines = [trace for trace in parallel(trials[:3], ACCURACY, ["lr", "width"]).data if trace.hovertemplate]

    assert [(list(line.x), line.hovertemplate[:7]) for line in lines] == [
        ([0, 1, 2], "trial 0"),
        ([0, 2], "trial 2"),
        ([0, 1, 2], "trial 1"),
    ]


def test_no_color_vanishes_on_white_or_black_paper(trials: list[FrozenTrial]) -> None:
    lines = parallel(trials[:3], ACCURACY, ["lr"]).data
    colors = {*COLORS.values(), *(line.line.color for line in lines)}

    for color in colors:
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)
        )
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # of WCAG 2.2, whose least contrast of lines is 3
        assert 1.05 / (luminance + 0.05) > 2.4, color
        assert (luminance + 0.05) / 0.05 > 3, color


@pytest.mark.pictures
def test_each_figure_is_drawn_as_an_image_too(trials: list[FrozenTrial], tmp_path: Path) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for values in ((0.5, 0.1), (0.9, 0.9), (0.4, 0.5)):
        study.add_trial(create_trial(values=values, params={}, distributions={}))
    front = pareto_front(study.trials, {0, 1}, [ACCURACY, LOSS])
    drawn = [history(trials, 1, ACCURACY), slices(trials, 1, ACCURACY, ["lr", "width"])]
    for number, figure in enumerate([*drawn, parallel(trials[:3], ACCURACY, ["lr", "width"]), front]):
        draw_still(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert len(image.convert("RGB").getcolors(1_000_000) or []) > 10
