"""Pictures that can be opened, numbers that are right."""

import math
import re
import struct
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightrail.lightning_modules.figures.figure import ConfusionMatrix, Figure, Images, Reliability, Scatter
from lightrail.project.figures.draw import count_confusions, draw, expected_calibration_error
from lightrail.project.figures.drawing import drawable
from lightrail.project.figures.run_figures import learning_curves, length_histogram

pytestmark = pytest.mark.pictures


def size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:])
    return width, height


def test_loss_and_monitored_metric_are_large_and_other_metrics_small(tmp_path: Path) -> None:
    curve = [(step, 1 / (step + 1)) for step in range(0, 50, 5)]
    series = {"train/loss": curve, "val/loss": curve}
    learning_curves(series, tmp_path / "loss.png")
    learning_curves({**series, "val/f1": curve}, tmp_path / "figures" / "both.png", "val/f1")
    more = {f"val/other_{number}": curve for number in range(5)}
    learning_curves({**series, "val/f1": curve, **more}, tmp_path / "all.png", "val/f1")
    assert size(tmp_path / "loss.png") == (960, 540)
    assert size(tmp_path / "figures" / "both.png") == (1500, 540)
    assert size(tmp_path / "all.png") == (1500, 540 + 2 * 285)


def test_learning_curves_take_single_points_and_values_that_are_not_numbers(tmp_path: Path) -> None:
    learning_curves({"val/loss": [(1, float("nan"))], "val/f1": [(1, float("nan")), (2, 0.5)]}, tmp_path / "a.png")
    learning_curves({"throughput/x": [(1, 1.0)], "val/loss": []}, tmp_path / "none.png")
    assert size(tmp_path / "a.png")
    assert not (tmp_path / "none.png").exists()


def test_confusions_are_counted_by_target_and_prediction() -> None:
    labels, counts = count_confusions(["a", "a", "b", "b", "b"], ["a", "b", "b", "b", "c"], max_labels=10)
    assert labels == ["b", "a", "c"]
    assert counts.tolist() == [[2, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_rare_labels_share_a_row_and_no_example_is_left_out() -> None:
    targets = [f"label{number}" for number in range(30) for _ in range(30 - number)]
    labels, counts = count_confusions(targets, targets, max_labels=5)
    assert labels == ["label0", "label1", "label2", "label3", "(other)"]
    assert counts.sum() == len(targets)
    assert counts[4, 4] == sum(range(1, 27))


def test_labels_that_the_font_of_matplotlib_lacks_stay_text_on_every_machine(tmp_path: Path) -> None:
    labels = ["积极", "消极", "price $1 or $2", "a\nb\0", "😀" * 30, "<é & \ud800>"]
    figure = ConfusionMatrix(name="matrix", targets=labels, predictions=labels)
    draw(replace(figure, title="\0"), tmp_path)
    texts = "".join(ElementTree.parse(tmp_path / "figures" / "matrix.svg").getroot().itertext())
    written = ["积极", "消极", "price $1 or $2", r"a\nb\x00", "😀" * 15 + "…", r"<é & \ud800>"]
    assert [texts.count(label) for label in written] == [2] * 6  # on both sides of the matrix
    draw(replace(figure, targets=["é"], predictions=["é"]), tmp_path)
    assert size(tmp_path / "figures" / "matrix.png")
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["matrix.png"]


def test_a_long_chinese_label_has_the_room_that_it_needs(tmp_path: Path) -> None:
    lefts = []
    for label in ("一", "一" * 12):
        draw(ConfusionMatrix(name="matrix", targets=[label], predictions=["b"]), tmp_path)
        svg = (tmp_path / "figures" / "matrix.svg").read_text("utf-8")
        lefts.append(max(float(x) for x in re.findall(rf'x="([0-9.]+)"[^>]*>{label}<', svg)))
    assert lefts[1] > 12 * 9 - 1  # inches to points: each character is as wide as the font's 9 points


def test_a_label_is_cut_and_printable() -> None:
    assert drawable("中a$\u3000") == r"中a\$\u3000"
    assert drawable("abcdef", max_characters=4) == "abc…"


def test_the_calibration_error_of_a_hand_counted_case() -> None:
    # bin (0.8, 0.9]: confidence 0.85, accuracy 0.5, weight 2/3; the last bin: confidence 1, accuracy 1, weight 1/3
    assert expected_calibration_error([0.85, 0.85, 1.0], [True, False, True]) == pytest.approx(0.35 * 2 / 3)
    assert expected_calibration_error([], []) == 0


def test_the_diagram_shows_the_calibration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("lightrail.project.figures.draw.title", lambda *texts: shown.append(texts[-1]))
    scores = [0.85, 0.85, 1.0]
    draw(Reliability(name="reliability", confidences=scores, are_correct=[True, False, True]), tmp_path)
    assert shown == ["expected calibration error 0.233, 3 predictions"]
    assert size(tmp_path / "figures" / "reliability.png")


@pytest.mark.parametrize("values", [[], [1.0], [float("nan"), 2.0, 3.5]])
def test_a_scatter_takes_any_numbers(tmp_path: Path, values: list[float]) -> None:
    draw(Scatter(name="pairs", title="Pairs", x=values, y=values), tmp_path)
    assert size(tmp_path / "figures" / "pairs.png")


def test_a_kind_of_ones_own_says_how_it_is_drawn(tmp_path: Path) -> None:
    class Words(Figure):
        pass

    with pytest.raises(NotImplementedError, match="no function draws a figure of the type Words"):
        draw(Words(name="words", title="Words"), tmp_path)
    draw.register(Words, lambda figure, directory: (directory / "words.txt").write_text(figure.title))
    draw(Words(name="words", title="Words"), tmp_path)
    assert (tmp_path / "words.txt").read_text() == "Words"
    draw(Images(name="none", title="None", images=[], captions=[]), tmp_path)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("lower", [True, False])
def test_the_step_whose_weights_are_kept_is_the_first_best_of_the_monitored_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: bool
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("lightrail.project.figures.run_figures.title", lambda *texts: shown.append(texts[-1]))
    series = {
        "val/loss": [(1, 2.0), (2, 1.0), (3, 3.0), (4, 0.25)],
        "val/certainty": [(1, 0.5), (2, 0.7), (3, 0.7), (4, 0.5), (5, math.nan)],
    }
    learning_curves(series, tmp_path / "a.png", "val/certainty", {"val/loss", *(["val/certainty"] if lower else [])})
    assert shown == (
        ["2 kept, best 0.25", "0.5 at the kept step 1"] if lower else ["1 kept, best 0.25", "0.7 at the kept step 2"]
    )


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [1, 2, 100_000]])
def test_a_length_histogram_takes_any_lengths(tmp_path: Path, lengths: list[int]) -> None:
    length_histogram(lengths, tmp_path / "plain.png")
    assert size(tmp_path / "plain.png") == (960, 540)
