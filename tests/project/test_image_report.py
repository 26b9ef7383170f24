"""The sheet of the worst mistakes shows the pictures that were got wrong, the worst first."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lightrail.datamodules.image_classification import ImageClassificationData
from lightrail.lightning_modules.image_classification import ImageClassifier
from lightrail.project.figures.draw import draw
from tests.support.pictures import bars, write_folder, write_idx

pytestmark = pytest.mark.pictures

Sheet = list[tuple[NDArray[np.uint8], str]]


@pytest.fixture
def sheet(monkeypatch: pytest.MonkeyPatch) -> Sheet:
    """Each picture that is drawn, and what stands above it."""
    drawn: Sheet = []
    pictures: list[NDArray[np.uint8]] = []
    imshow = Axes.imshow

    def keep_picture(axes: Axes, picture: NDArray[np.uint8], **settings: Any) -> Any:
        pictures.append(picture)
        return imshow(axes, picture, **settings)

    def keep_title(axes: Axes, text: str, **settings: Any) -> None:
        drawn.append((pictures[-1], text))

    monkeypatch.setattr(Axes, "imshow", keep_picture)
    monkeypatch.setattr(Axes, "set_title", keep_title)
    return drawn


def prepared(folder: Path) -> ImageClassificationData:
    write_idx(folder / "x-images-idx3-ubyte", bars(4), [0, 1, 0, 1])
    path = str(folder / "x-images-idx3-ubyte")
    data = ImageClassificationData(path, validation_path=path, test_path=path)
    data.setup("fit")
    return data


def draw_worst(data: ImageClassificationData, table: pa.Table, folder: Path) -> Path:
    """Draw the sheet of mistakes, if there is one; give the file it would be in."""
    task = ImageClassifier(**{**data.facts(), "labels": ["0", "1"]})
    columns = {name: table[name].to_numpy() for name in table.column_names}
    for figure in task.figures(columns, data.rows("test").row):
        if figure.name == "worst_mistakes":
            draw(figure, folder)
    return folder / "figures" / "worst_mistakes.png"


def answers(predictions: list[str]) -> pa.Table:
    columns = {"id": [0, 1, 2, 3], "target": ["0", "1", "0", "1"], "loss": [1.0, 3.0, 0.1, 2.0]}
    return pa.table({**columns, "prediction": predictions, "score": [0.5, 0.75, 0.9, 0.6]})


def test_the_worst_mistakes_come_first_with_their_image(tmp_path: Path, sheet: Sheet) -> None:
    data = prepared(tmp_path)
    file = draw_worst(data, answers(["1", "0", "0", "0"]), tmp_path)
    assert file.stat().st_size > 1000
    assert [title for _, title in sheet] == ["1\n0 0.75", "1\n0 0.60", "0\n1 0.50"]
    assert [picture.tolist() for picture, _ in sheet] == bars(4)[[1, 3, 0]].tolist()


def test_colours_are_shown_as_colours(tmp_path: Path, sheet: Sheet) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3)).astype(np.uint8)
    names = ["a/0.png", "a/1.png", "b/2.png", "b/3.png"]
    write_folder(tmp_path / "all", dict(zip(names, pictures, strict=True)))
    path = str(tmp_path / "all")
    data = ImageClassificationData(path, validation_path=path, test_path=path)
    data.setup("fit")
    draw_worst(data, answers(["1", "1", "0", "1"]), tmp_path)
    assert [picture.tolist() for picture, _ in sheet] == [pictures[0].tolist()]


def test_where_all_is_right_there_is_no_sheet(tmp_path: Path) -> None:
    assert not draw_worst(prepared(tmp_path), answers(["0", "1", "0", "1"]), tmp_path).exists()
