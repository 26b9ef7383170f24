"""The house rules a program can check. Each rule is a function that names what breaks it, and is seen to find it."""

import ast
import graphlib
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

from lightrail.project.basics.catalogue import ROOT, components, experiment_files
from tests.support.glossary import GLOSSARY, PROSE, hits_in, words_that_are_not_standard

PACKAGES = ("project", "lightning_modules", "datamodules", "sweeps")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
SINGLE_AXIS = ("TaskModule", "DataModule")
MAY_IMPORT = {
    "project/basics": (),
    "datamodules": ("datamodules", "project.basics"),
    "lightning_modules": ("lightning_modules", "project.basics"),
    "project": ("project", "datamodules", "lightning_modules"),
    "sweeps": PACKAGES,
}
"""Which parts of `lightrail` the files of a folder may import; the first folder that a file is in counts."""
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
    allowed = next((own for folder, own in MAY_IMPORT.items() if file.as_posix().startswith(f"{folder}/")), None)
    if allowed is None:
        return
    may = (*(f"lightrail.{name}." for name in (*allowed, *([] if file.parts[1] != "basics" else ["project.basics"]))),)
    for node in ast.walk(tree):
        for name in imported_names(node):
            is_ours = name.split(".")[0] in ("lightrail", "tests", "benchmarks")
            if is_ours and not f"{name}.".startswith(may):
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


def what_tests_share_is_in_support(file: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        for name in imported_names(node):
            if re.match(r"tests\.(?!(support|golden)\.)|tests\..*\b(test_|conftest)", f"{name}."):
                yield f"{file}:{node.lineno}: imports {name}; move what tests share to tests/support"  # type: ignore[attr-defined]


def general_code_names_no_task(file: Path, tree: ast.Module) -> Iterator[str]:
    if file.parts[0] not in ("project", "sweeps") or file.as_posix() in NAMES_TASKS:
        return
    for node in ast.walk(tree):
        names = [own.rpartition(".")[2] for own in imported_names(node)]
        names += [node.id] if isinstance(node, ast.Name) else []
        yield from (f"{file}:{node.lineno}: names the task {name}" for name in names if name in task_names())  # type: ignore[attr-defined]


def defaults_that_are_built_are_settings(file: Path, tree: ast.Module) -> Iterator[str]:
    if file.parts[0] not in ("datamodules", "lightning_modules"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            for default in (own for own in (*node.defaults, *node.kw_defaults) if isinstance(own, ast.Call)):
                name = ast.unparse(default.func).rpartition(".")[2]
                if not name.endswith(("Config", "Remedies", "TaggedLines")):
                    yield f"{file}:{default.lineno}: the default {name}() is shared by all calls"


@cache
def task_names() -> frozenset[str]:
    found = (own for folder in ("lightning_modules", "datamodules") for own in components(ROOT / folder))
    return frozenset(own.name for own in found if set(SINGLE_AXIS) & set(own.bases))


NAMES_TASKS = ("project/basics/renamed.py",)
"""A table of what was called otherwise."""

RULES: dict[Rule, dict[str, list[str]]] = {
    tasks_and_data_are_final_and_one_level_deep: {
        "lightning_modules/x.py": [
            "class Tagger(TaskModule): ...",
            "@final\nclass Tagger(base.TaskModule, Mixin): ...",
            "@final\n@register\nclass Lines(DataModule): ...",
        ],
    },
    imports_go_one_way: {
        "datamodules/x.py": [
            "import lightrail.lightning_modules",
            "def f():\n    from lightrail.project.running import build",
        ],
        "lightning_modules/x.py": [
            "from lightrail.datamodules.base import Batch",
            "from lightrail.project import cli",
            "import lightrail.sweeps.x",
        ],
        "lightning_modules/networks/x.py": [
            "from lightrail.project.basics_of_others import x",
            "import lightrail.project",
        ],
        "project/x.py": ["import lightrail.sweeps", "from tests import contract"],
        "project/basics/x.py": ["from lightrail.project.running import build", "import lightrail.datamodules"],
        "sweeps/x.py": ["from lightrail.testing.contract import TaskContract"],
    },
    files_are_named_after_what_they_do: {"project/utils.py": [""], "datamodules/reading/helpers.py": ["x = 1"]},
    files_are_short: {"project/x.py": ["\n" * 400 + "x = 1"]},
    functions_are_short: {"sweeps/x.py": ["def f():\n" + "    x = 1\n" * 46, "async def f():\n" + "    x = 1\n" * 46]},
    nothing_is_printed_outside_commands: {
        "datamodules/x.py": ["def f():\n    print('x')"],
        "project/build.py": ["print()"],
    },
    what_tests_share_is_in_support: {
        "tests/test_x.py": [
            "from tests.project.test_y import lines",
            "def f():\n    import tests.test_y",
            "from tests import test_y",
            "from tests.golden.test_y import lines",
        ],
        "tests/sweeps/conftest.py": ["from tests.project.conftest import store", "from tests.tiny import Signs"],
        "benchmarks/x.py": ["from tests.sweeps.sweeping import TinySweep"],
    },
    general_code_names_no_task: {
        "project/x.py": [
            "isinstance(task, CausalLM)",
            "from lightrail.lightning_modules.pinyin.tagger import PinyinTagger",
        ],
        "sweeps/x.py": ["from lightrail.datamodules.entities import EntityData as Data"],
    },
    defaults_that_are_built_are_settings: {
        "datamodules/x.py": ["def f(names: list[str] = list()): ...", "def f(*, head: Head = Head(3)): ..."],
    },
    packages_hold_imports_or_nothing: {"sweeps/__init__.py": ["def f(): ...", "__version__ = '1'"]},
}
"""Each rule with sources that break it, by the file they would be in."""

KEPT = {
    "lightning_modules/base.py": "class TaskModule(LightningModule, ABC): ...\n@final\nclass A(TaskModule): ...",
    "datamodules/x.py": "from lightrail.project.basics.errors import DataError\nimport lightrail.project.basics.errors",
    "project/basics/x.py": "from lightrail.project.basics.errors import ConfigError",
    "project/commands/x.py": "print('x')\nimportlib.import_module('lightrail.sweeps.drive')",
    "sweeps/x.py": "from lightrail.project.running.build import build\ndef f():\n    '''"
    + "\n" * 90
    + "'''\n"
    + "    x = 1\n" * 45,
    "tests/test_x.py": "from tests.support import tiny\nfrom tests.support.tiny import f\nimport tests.golden.write",
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


Graph = dict[str, set[str]]
MAX_FILES_OF_A_FOLDER = 12


def import_graph(sources: Mapping[str, str]) -> Graph:
    """Which file imports which, anywhere in its text but for types alone.

    Args:
        sources: texts by path, `project/cli.py`.
    """
    modules = {
        f"lightrail.{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}": path for path in sources
    }
    graph: Graph = {}
    for path, text in sources.items():
        tree = ast.parse(text)
        conditions = (node for node in ast.walk(tree) if isinstance(node, ast.If))
        for_types = {
            id(own) for node in conditions if "TYPE_CHECKING" in ast.unparse(node.test) for own in ast.walk(node)
        }
        names = [name for node in ast.walk(tree) if id(node) not in for_types for name in imported_names(node)]
        found = (modules.get(name) or modules.get(name.rpartition(".")[0]) for name in names)
        graph[path] = {other for other in found if other is not None} - {path}
    return graph


def folders_of(graph: Graph) -> Graph:
    """The same between folders; what a package offers of its own files is no import of another folder."""
    folders: Graph = {}
    for path, others in graph.items():
        own = path.rpartition("/")[0]
        folders.setdefault(own, set()).update({other.rpartition("/")[0] for other in others} - {own})
    return folders


def circle(graph: Graph) -> list[str]:
    """One circle of a graph; [] when it has none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def package_sources() -> dict[str, str]:
    files = (file for file in source_files() if file.parts[0] in PACKAGES)
    return {file.as_posix(): (ROOT / file).read_text("utf-8") for file in files}


def test_no_files_and_no_folders_import_each_other_in_a_circle() -> None:
    graph = import_graph(package_sources())
    assert sum(map(len, graph.values())) > 500
    assert circle(graph) == []
    assert circle(folders_of(graph)) == []


def test_a_circle_is_found() -> None:
    files = {
        "project/a/x.py": "from lightrail.project.b import y",
        "project/b/y.py": "import os",
        "project/b/__init__.py": "",
    }
    assert circle(import_graph(files)) == circle(folders_of(import_graph(files))) == []
    files["project/b/z.py"] = "def f():\n    from lightrail.project.a.x import f"
    assert circle(import_graph(files)) == []
    assert sorted(set(circle(folders_of(import_graph(files))))) == ["project/a", "project/b"]
    files["project/b/y.py"] = "import lightrail.project.a.x"
    assert sorted(set(circle(import_graph(files)))) == ["project/a/x.py", "project/b/y.py"]


def test_no_folder_shows_more_files_than_one_can_look_at() -> None:
    modules = [path for path in package_sources() if not path.endswith("__init__.py")]
    sizes = Counter(path.rpartition("/")[0] for path in modules)
    assert {folder: number for folder, number in sizes.items() if number > MAX_FILES_OF_A_FOLDER} == {}


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


def test_prose_uses_standard_terms() -> None:
    hits = hits_in(*PROSE)
    assert not hits, f"{len(hits)} hits\n" + "\n".join(hits)


def test_words_that_are_not_standard_are_found() -> None:
    for words, (standard, example) in GLOSSARY.items():
        for name, text in (
            ("x.md", example),
            ("x.py", f"x = 1\n# so: {example}"),
            ("x.py", f'log("%s", "{example} x")'),
        ):
            assert [own.split(" -> ")[1] for own in words_that_are_not_standard(name, text)] == [standard], words
    assert words_that_are_not_standard("x.py", '"""The run goes\n    on."""')[0].startswith("x.py:1: goes on -> ")
    assert len(words_that_are_not_standard("x.py", '"""The same with seeds."""')) == 1
    fine = "# a run resumes; these are told apart\npicture = spelled['picture']  # in the meantime\ngoes_on = turn()"
    assert words_that_are_not_standard("x.py", fine) == []
