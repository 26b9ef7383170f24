"""Settings as Python values: what they are, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.library.settings import configuration_of
from tests.support.callbacks import Going

NAME = "text_classification"


def test_values_are_what_they_are() -> None:
    callback = {"class_path": EarlyStopping, "init_args": {"monitor": "val/loss", "patience": np.int64(3)}}
    given = {
        "data.path": Path("a.csv"),
        "data.text_column": "null",
        "data.pair_column": None,
        "data.reading": {"column_names": ("a", "b")},
        "lr": 0.25,
        "epochs": 2,
        "trainer.callbacks": [callback],
    }
    values = configuration_of(NAME, given).values
    data = values["data"]["init_args"]
    assert [data[name] for name in ("path", "text_column", "pair_column")] == ["a.csv", "null", None]
    assert data["reading"]["column_names"] == ["a", "b"]
    assert values["model"]["init_args"]["optim"]["lr"] == 0.25
    assert values["trainer"]["max_epochs"] == 2
    assert values["trainer"]["callbacks"][0]["init_args"]["patience"] == 3


def test_a_configuration_is_a_name_files_or_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("seed_everything: 7\n", encoding="utf-8")
    one = configuration_of([NAME, tmp_path / "more.yaml"], {"data.path": "a.csv"})
    assert one == parse([f"--config={NAME}", f"--config={tmp_path}/more.yaml", "--data.path=a.csv"])
    assert configuration_of(one.values).values == one.values
    assert configuration_of(one.values, {"seed": 8}).seed == 8


def test_a_class_among_the_settings_is_allowed() -> None:
    values = configuration_of(NAME, {"data.path": "a", "trainer.callbacks": {"class_path": Going}}).values
    assert values["trainer"]["callbacks"]["class_path"] == "tests.support.callbacks.Going"


REFUSED: list[tuple[Any, Any, str]] = [
    (3, {}, "the configuration is 3. Give a name, a file, several, or a mapping."),
    (NAME, ["--epochs=3"], "the settings are .* Give a mapping"),
    (NAME, {"data.path": "a", "config": "digits"}, "config is no setting, but an option of the command line"),
    (NAME, {"data.path": object()}, "data.path: <object object at .* is a object. Give a plain value"),
    (NAME, {3: "a"}, "settings: the name 3 is no text"),
    (NAME, {"data.path": "a", "epochs": "3.5"}, "trainer.max_epochs: .*3.5"),
]


@pytest.mark.parametrize(("source", "settings", "message"), REFUSED)
def test_other_values_are_refused(source: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration_of(source, settings)
