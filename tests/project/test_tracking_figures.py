"""Pictures that can be opened, numbers that are right."""

import math
import struct
from pathlib import Path

import pytest
from matplotlib import font_manager

from lightrail.lightning_modules.figures.figure import ConfusionMatrix, Figure, Images, Reliability, Scatter
from lightrail.project.figures import drawing
from lightrail.project.figures.draw import count_confusions, draw, expected_calibration_error
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


@pytest.mark.parametrize("has_font", [True, False])
def test_any_label_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_font: bool) -> None:
    if not has_font:
        monkeypatch.setattr(drawing, "CHINESE_FONTS", ())
    drawing.font_families.cache_clear()
    drawing._known_characters.cache_clear()
    labels = ["积极", "消极", "price $1 or $2", "a\nb", "😀" * 30, ""]
    draw(ConfusionMatrix(name="matrix", targets=labels, predictions=labels), tmp_path)
    assert size(tmp_path / "figures" / "matrix.png")
    drawing.font_families.cache_clear()
    drawing._known_characters.cache_clear()


def test_without_a_chinese_font_a_label_is_written_in_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
    monkeypatch.setattr(drawing, "_known_characters", lambda: known)
    assert drawing.drawable("中a$") == r"\u4e2da\$"
    assert drawing.drawable("abcdef", max_characters=4) == "abc…"


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
