"""The house rules a program can check. Each rule is a function that names what breaks it, and is seen to find it."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lightrail.project.basics.catalogue import ROOT, experiment_files

PACKAGES = ("project", "lightning_modules", "datamodules", "sweeps")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
SINGLE_AXIS = ("TaskModule", "DataModule")
FORBIDDEN_IMPORTS = {
    "datamodules": ("lightning_modules", "project", "sweeps", "tests"),
    "lightning_modules": ("datamodules", "project", "sweeps", "tests"),
    "project": ("sweeps", "tests"),
    "sweeps": ("tests",),
}
ALLOWED_IMPORTS = ("lightrail.project.basics.durable", "lightrail.project.basics.errors", "lightrail.project.basics.hardware", "lightrail.project.basics.did_you_mean", "lightrail.project.basics.tables")
"""What everybody may import."""
MAY_PRINT = ("project/cli.py", "project/commands/")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 45
MACHINE_SPECIFIC = re.compile(
    r"(?<![\w.:/])/(?:work|root|home|mnt|opt)/\w"  # a path of one machine
    r"|--(?:extra-)?index-url|--find[-]links|://[^\s/]*(?:pypi|pythonhosted|artifactory|nexus|conda\.anaconda)",
)

Rule = Callable[[Path, ast.Module], Iterator[str]]


def tasks_and_data_are_final_and_one_level_deep(file: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
        decorators = [ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list]
        if set(SINGLE_AXIS) & set(bases) and (len(bases) != 1 or decorators != ["final"]):
            yield f"{file}:{node.lineno}: {node.name} must be @final and derive from {bases[0]} alone"


def imports_go_one_way(file: Path, tree: ast.Module) -> Iterator[str]:
    forbidden = FORBIDDEN_IMPORTS.get(file.parts[0], ())
    for node in ast.walk(tree):
        for name in imported_names(node):
            is_allowed = f"{name}.".startswith(tuple(f"{allowed}." for allowed in ALLOWED_IMPORTS))
            if name.split(".")[0] in forbidden and not is_allowed:
                yield f"{file}:{node.lineno}: must not import {name}"  # type: ignore[attr-defined]


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def files_are_named_after_what_they_do(file: Path, tree: ast.Module) -> Iterator[str]:
    if file.stem in ("utils", "util", "helpers", "helper", "misc"):
        yield f"{file}: name it after what it does"


def files_are_short(file: Path, tree: ast.Module) -> Iterator[str]:
    last = max((getattr(node, "end_lineno", 0) or 0 for node in ast.walk(tree)), default=0)
    if last > MAX_FILE_LINES:
        yield f"{file}: {last} lines; split it"


def functions_are_short(file: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > MAX_FUNCTION_LINES:
                yield f"{file}:{node.lineno}: {node.name} has {lines} lines; it does two things"


def nothing_is_printed_outside_commands(file: Path, tree: ast.Module) -> Iterator[str]:
    if file.parts[0] not in PACKAGES or file.as_posix().startswith(MAY_PRINT):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{file}:{node.lineno}: print; log it, or return it to the command"


def packages_hold_imports_or_nothing(file: Path, tree: ast.Module) -> Iterator[str]:
    if file.name != "__init__.py":
        return
    for node in tree.body:
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (isinstance(node, ast.Import | ast.ImportFrom) or is_all or is_text):
            yield f"{file}:{node.lineno}: an __init__.py holds imports or nothing"


RULES: dict[Rule, dict[str, list[str]]] = {
    tasks_and_data_are_final_and_one_level_deep: {
        "lightning_modules/x.py": [
            "class Tagger(TaskModule): ...",
            "@final\nclass Tagger(base.TaskModule, Mixin): ...",
            "@final\n@register\nclass Lines(DataModule): ...",
        ],
    },
    imports_go_one_way: {
        "datamodules/x.py": ["import lightning_modules", "def f():\n    from lightrail.project.running.build import build"],
        "lightning_modules/x.py": [
            "from lightrail.datamodules.base import Batch",
            "from project import build",
            "import sweeps.x",
        ],
        "project/x.py": ["import sweeps", "from tests import contract"],
        "sweeps/x.py": ["from tests.contract import TaskContract"],
        "lightning_modules/networks/x.py": ["from project.errors_of_others import x", "import project"],
    },
    files_are_named_after_what_they_do: {"project/utils.py": [""], "datamodules/reading/helpers.py": ["x = 1"]},
    files_are_short: {"project/x.py": ["\n" * 400 + "x = 1"]},
    functions_are_short: {"sweeps/x.py": ["def f():\n" + "    x = 1\n" * 46, "async def f():\n" + "    x = 1\n" * 46]},
    nothing_is_printed_outside_commands: {
        "datamodules/x.py": ["def f():\n    print('x')"],
        "project/build.py": ["print()"],
    },
    packages_hold_imports_or_nothing: {"sweeps/__init__.py": ["def f(): ...", "__version__ = '1'"]},
}
"""Each rule with sources that break it, by the file they would be in."""

KEPT = {
    "lightning_modules/base.py": "class TaskModule(LightningModule, ABC): ...\n@final\nclass A(TaskModule): ...",
    "datamodules/x.py": "from lightrail.project.basics.errors import DataError\nfrom project import errors\nimport lightrail.project.basics.errors",
    "project/commands/x.py": "print('x')\nimportlib.import_module('sweeps.drive')",
    "sweeps/x.py": "from lightrail.project.running.build import build\ndef f():\n    '''" + "\n" * 90 + "'''\n" + "    x = 1\n" * 45,
    "project/__init__.py": '"""Text."""\nfrom lightrail.project.running.build import build\n__all__ = ["build"]',
}
"""Sources that keep every rule."""


def source_files() -> list[Path]:
    return sorted(file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    files = source_files()
    assert {file.parts[0] for file in files} >= {*PACKAGES, "tests"}
    trees = {file: ast.parse((ROOT / file).read_text("utf-8")) for file in files}
    assert [problem for file, tree in trees.items() for problem in rule(file, tree)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_is_seen_to_find_what_breaks_it(rule: Rule) -> None:
    for file, sources in RULES[rule].items():
        for source in sources:
            assert len(list(rule(Path(file), ast.parse(source)))) == 1, (file, source)
    for file, source in KEPT.items():
        assert list(rule(Path(file), ast.parse(source))) == []


def test_every_shipped_experiment_is_yaml_that_says_what_it_is() -> None:
    assert experiment_files()
    for file in experiment_files().values():
        text = file.read_text("utf-8")
        assert text.startswith("# "), f"{file}: begin with a comment line, which `lightrail list` shows"
        assert {"model", "data"} <= yaml.safe_load(text).keys()


def machine_specific_lines(name: str, text: str) -> list[str]:
    lines = enumerate(text.splitlines(), 1)
    return [f"{name}:{number}: {line.strip()}" for number, line in lines if MACHINE_SPECIFIC.search(line)]


def test_nothing_in_the_repository_belongs_to_one_machine() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    texts = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    assert "pyproject.toml" in texts
    problems = [
        problem
        for name, content in texts.items()
        if b"\0" not in content
        for problem in machine_specific_lines(name, content.decode("utf-8"))
    ]
    assert problems == []


@pytest.mark.parametrize(
    "line",
    [
        "data: /" + "work/data/x.csv",
        'open("/' + 'home/me/x")',
        "--" + "index-url https://example.org/simple",
        "https://files." + "pythonhosted.org/packages",
    ],
)
def test_a_line_of_one_machine_is_found(line: str) -> None:
    assert machine_specific_lines("x", f"fine\n{line}") == [f"x:2: {line}"]
    assert machine_specific_lines("x", "path: data/work/x.csv, https://example.org/home/x, and/or") == []
