"""A misspelt name is answered with the one that was meant."""

import pytest

from lightrail.project.basics.did_you_mean import did_you_mean, first_names, nearest


def test_the_nearest_come_first_and_case_does_not_count() -> None:
    names = ["Accuracy", "precision", "precision_macro", "loss"]
    assert nearest("acuracy", names) == ["Accuracy"]
    assert nearest("PRECISON", names, most=2, least_alike=0.5) == ["precision", "precision_macro"]
    assert nearest("zzz", names) == nearest("loss", []) == []


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("los", ["loss", "f1"], " Did you mean a.loss?"),
        ("zzz", ["loss", "f1"], " Choose from f1, loss."),
        ("zzz", [f"metric_{number}" for number in range(21)], ""),
        ("zzz", [], ""),
    ],
)
def test_few_names_are_all_listed_when_none_is_near(name: str, names: list[str], expected: str) -> None:
    assert did_you_mean(name, names, prefix="a.") == expected


def test_many_names_are_cut() -> None:
    assert first_names(["a"] * 10) == ", ".join("a" * 10)
    assert first_names(["a"] * 11) == ", ".join("a" * 10) + ", ..."
