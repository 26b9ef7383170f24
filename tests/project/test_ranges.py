"""Every number among the settings has its range in its type, which the configuration, its help and Python all keep."""

import dataclasses
import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf
from lightning.pytorch import LightningDataModule

from lightrail.datamodules.text_classification import TextClassificationData
from lightrail.project import cli
from lightrail.project.basics.annotations import Ranged, alternatives, is_in_range, without_ranges
from lightrail.project.basics.catalogue import FOLDERS, ROOT, components
from lightrail.project.basics.errors import ConfigError
from lightrail.project.configuration import parse
from lightrail.project.configuration.parameters import REQUIRED, parameters_of, read


@dataclass(frozen=True, kw_only=True)
class LimitsConfig(Ranged):
    gt: Annotated[float, Gt(0)] = 1.0
    ge: Annotated[int, Ge(1)] = 1
    lt: Annotated[float, Lt(1)] = 0.0
    le: Annotated[int, Le(5)] = 5
    interval: Annotated[float, Interval(gt=0, le=1)] = 1.0
    even: Annotated[int, Ge(2), MultipleOf(2)] = 2
    longer: Annotated[list[str], MinLen(1)] = dataclasses.field(default_factory=lambda: ["a"])
    shorter: Annotated[tuple[int, ...], MaxLen(2)] = ()
    pair: Annotated[list[Annotated[int, Ge(1)]], Len(2, 2)] | None = None
    nullable: Annotated[int, Ge(1)] | None = None
    either: Annotated[int, Ge(10)] | Annotated[float, Interval(ge=0, le=1)] = 10
    items: list[Annotated[int, Ge(1)]] = dataclasses.field(default_factory=list)
    values: dict[str, Annotated[float, Ge(0)] | None] = dataclasses.field(default_factory=dict)


class Limited(LightningDataModule):
    """Data that only a configuration asks for."""

    def __init__(self, limits: LimitsConfig = LimitsConfig()) -> None:
        super().__init__()
        self.limits = limits


KEPT: list[tuple[str, Any]] = [
    *[("gt", 1e-9), ("ge", 1), ("lt", -3.0), ("le", 5), ("interval", 1.0), ("even", 4), ("longer", ["a"])],
    *[("shorter", [1, 2]), ("pair", [1, 2]), ("pair", None), ("nullable", None), ("nullable", 1)],
    *[("either", 12), ("either", 0.5), ("items", []), ("items", [1, 2]), ("values", {"a": None, "b": 0.0})],
]
PAIR = "a list (each a whole number of at least 1) of length 2 or more and of length 2 or less or null"
REFUSED: list[tuple[str, Any, str, str]] = [
    ("gt", 0.0, "a number above 0", "0.0"),
    ("gt", math.nan, "a number above 0", "NaN"),
    ("ge", 0, "a whole number of at least 1", "0"),
    ("lt", 1.0, "a number below 1", "1.0"),
    ("le", 6, "a whole number up to 5", "6"),
    ("interval", 0.0, "a number above 0 and up to 1", "0.0"),
    ("interval", 1.5, "a number above 0 and up to 1", "1.5"),
    ("even", 3, "a whole number of at least 2 and that is a multiple of 2", "3"),
    ("longer", [], "a list (each text) of length 1 or more", "[]"),
    ("shorter", [1, 2, 3], "a list (each a whole number) of length 2 or less", "[1, 2, 3]"),
    (
        "pair",
        [1],
        "a list (each a whole number of at least 1) of length 2 or more and of length 2 or less or null",
        "[1]",
    ),
    (
        "pair",
        [0, 1],
        "a list (each a whole number of at least 1) of length 2 or more and of length 2 or less or null",
        "[0, 1]",
    ),
    ("nullable", 0, "a whole number of at least 1 or null", "0"),
    ("either", 3, "a whole number of at least 10 or a number of at least 0 and up to 1", "3"),
    ("either", 1.5, "a whole number of at least 10 or a number of at least 0 and up to 1", "1.5"),
    ("items", [1, 0], "a list (each a whole number of at least 1)", "[1, 0]"),
    ("values", {"a": -1.0}, "a mapping (each a number of at least 0 or null)", '{"a": -1.0}'),
]


def written(folder: Path, name: str, value: Any) -> list[str]:
    """Arguments that have a file, in whose sixth line a setting has a value."""
    file = folder / "mine.yaml"
    shown = ".nan" if value != value else repr(value).replace("None", "null")  # noqa: PLR0124 - NaN alone is not itself
    file.write_text(
        f"model: Tagger\ntrainer: {{max_steps: 1}}\ndata:\n  class_path: Limited\n  limits:\n    {name}: {shown}\n"
    )
    return ["--allow_modules=tests.support.components,tests.project.test_ranges", f"--config={file}"]


@pytest.mark.parametrize("flags", [[], ["--print_config"]], ids=["fit", "print_config"])
@pytest.mark.parametrize(("name", "value", "expected", "found"), REFUSED)
def test_a_value_out_of_range_is_refused_where_it_stands(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    name: str,
    value: Any,
    expected: str,
    found: str,
) -> None:
    assert cli.main(["fit", *written(tmp_path, name, value), *flags]) == 2
    shown = capsys.readouterr()
    place = f"{tmp_path / 'mine.yaml'}:6: data.init_args.limits.{name}"
    assert (shown.out, shown.err) == ("", f"lightrail: error: {place}: expected {expected}, found {found}.\n")


@pytest.mark.parametrize(("name", "value", "expected", "found"), REFUSED)
def test_an_object_built_in_python_is_checked_too(name: str, value: Any, expected: str, found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        LimitsConfig(**{name: value})
    assert str(refused.value) == f"LimitsConfig.{name}: expected {expected}, found {found}."


@pytest.mark.parametrize(("name", "value"), KEPT)
def test_a_value_in_range_is_kept_as_it_is(tmp_path: Path, name: str, value: Any) -> None:
    configuration = parse(written(tmp_path, name, value))
    limits = configuration.values["data"]["init_args"]["limits"]
    assert limits[name] == value
    again = parse(written(tmp_path, "lt", -7.0), saved=configuration.values)
    assert again.values["data"]["init_args"]["limits"] == {**limits, "lt": -7.0}
    data: Any = configuration.data()
    own: dict[str, Any] = {name: tuple(value) if name == "shorter" else value}
    assert data.limits == LimitsConfig(**own)


def test_a_number_is_read_with_a_range_as_without() -> None:
    chosen = ["--allow_modules=tests.support.components,tests.project.test_ranges", "--model=Tagger", "--data=Limited"]
    values = parse([*chosen, "--data.limits.gt=1", "--data.limits.items=[1,'2']"]).values["data"]["init_args"]["limits"]
    assert (values["gt"], type(values["gt"]), values["items"]) == (1.0, float, [1, 2])
    for text in ("1.0", "true"):
        with pytest.raises(ConfigError, match=r"limits\.ge: expected a whole number of at least 1, found"):
            parse([*chosen, f"--data.limits.ge={text}"])
    assert without_ranges(dict[str, Annotated[int, Ge(1)] | None]) == dict[str, int | None]


def test_the_arguments_of_a_datamodule_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"^TextClassificationData\.max_length: expected .* at least 1, found -1\.$"):
        TextClassificationData("x.csv", max_length=-1)


def test_help_shows_the_range_beside_the_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--config=text_classification", "--help_all"]) == 0
    shown = capsys.readouterr().out
    assert "--model.optim.lr (a number above 0) = " in shown
    assert "--model.dropout (a number of at least 0 and below 1) = " in shown
    assert "--trainer.accumulate_grad_batches (a whole number of at least 1) = 1\n" in shown


FREE = {
    "SplitConfig.seed": "it salts a hash, and any number does",
    "TaggedLines.tag_column": "counts from the end too",
    "TaggedLines.token_column": "counts from the end too",
}
"""Numbers without a range, and why they have none."""


def classes_with_settings() -> set[type]:
    """Tasks, datamodules and dataclasses of settings, and those dataclasses that are a setting of them."""
    named = (component for folder in FOLDERS for component in components(ROOT / folder))
    found = {
        getattr(importlib.import_module(item.module), item.name)
        for item in named
        if item.name.endswith("Config") or {"TaskModule", "DataModule"}.intersection(item.bases)
    }
    inner = (type_ for owner in found for _, annotation, _ in settings_of(owner) for type_ in alternatives(annotation))
    return found | {type_ for type_ in inner if isinstance(type_, type) and dataclasses.is_dataclass(type_)}


def settings_of(owner: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, annotation and default of each setting that does not come from the data."""
    for name, parameter in parameters_of(owner).items():
        if not parameter.is_from_data:
            yield f"{owner.__name__}.{name}", parameter.annotation, parameter.default


def has_free_number(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        inner = get_args(annotation)[0]
        return not {int, float}.issuperset(alternatives(inner)) and has_free_number(inner)
    return annotation in (int, float) or any(map(has_free_number, get_args(annotation)))


def test_every_number_among_the_settings_has_a_range() -> None:
    owners = classes_with_settings()
    assert {"OptimConfig", "SweepConfig", "CheckpointConfig", "EntityData", "TextClassifier", "TaggedLines"} <= {
        owner.__name__ for owner in owners
    }
    settings = [item for owner in owners for item in settings_of(owner)]
    assert len(settings) > 200
    assert {name for name, annotation, _ in settings if has_free_number(annotation)} == set(FREE)


def test_every_default_is_in_its_own_range() -> None:
    settings = [item for owner in classes_with_settings() for item in settings_of(owner)]
    out_of_range = [
        name for name, annotation, own in settings if own is not REQUIRED and not is_in_range(own, annotation)
    ]
    assert out_of_range == []
    assert not is_in_range(0, Annotated[int, Ge(1)] | None)


@pytest.mark.parametrize("annotation", [int | float | None, float | int | None])
def test_a_whole_number_stays_one_in_whichever_order_its_types_stand(annotation: Any) -> None:
    for value in (40, "40"):
        read_value = read(value, annotation)[0]
        assert (read_value, type(read_value)) == (40, int)
    assert read(0.5, annotation)[0] == 0.5
