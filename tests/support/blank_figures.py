"""Leaves figures blank in every process that imports it: two fifths of a tiny training's time went into drawing them.

A test marked `pictures` has its figures drawn, by its processes too: they have its environment.
"""

import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

DRAWS_FIGURES = "LIGHTRAIL_TEST_DRAWS_FIGURES"
"""An environment variable that is there where figures are drawn."""


def _save_or_leave_blank(figure: Figure, path: Path, **settings: Any) -> None:
    if DRAWS_FIGURES in os.environ:
        _save(figure, path, **settings)
    else:
        Image.new("L", (1, 1)).save(path, "png")


_save = Figure.savefig
Figure.savefig = _save_or_leave_blank  # type: ignore[method-assign, assignment]
