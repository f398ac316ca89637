"""The shape of the code: no import cycle, few modules at the root, short functions, files of one page, docstrings."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPO

PACKAGES = {"edge_runtime": REPO / "edge_runtime", "hobbit_export": REPO / "export" / "hobbit_export"}
MOST_LINES = 250
MOST_FUNCTION_LINES = 60


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module by name: its file and its tree."""
    found = {}
    for name, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path, ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> set[str]:
    """Our modules that a module imports: at its top, inside functions, or for its types alone."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in full.values()}
    return found & set(modules())


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, its docstring left out."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        docstring = (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_imports_have_no_cycle():
    graph = {name: imported(tree) - {name} for name, (_, tree) in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        raise AssertionError(" -> ".join(err.args[1])) from None


def test_every_folder_of_modules_is_a_package():
    """What checks import contracts passes over a folder without `__init__.py`, and so does what reads the layout."""
    folders = {path.parent for folder in PACKAGES.values() for path in folder.rglob("*.py")}
    assert [str(each.relative_to(REPO)) for each in sorted(folders) if not (each / "__init__.py").exists()] == []


def test_the_root_has_fewer_modules_than_folders():
    root = PACKAGES["edge_runtime"]
    files = {path.stem for path in root.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert len(files) < len(folders), files


def test_files_fit_a_page():
    native = [
        path for suffix in (".cpp", ".hpp", ".cu", ".cuh") for path in PACKAGES["edge_runtime"].rglob(f"*{suffix}")
    ]
    assert native
    long = {
        path.relative_to(REPO).as_posix(): lines
        for path in [*native, *(path for path, _ in modules().values())]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_functions_are_short():
    found = [
        (num_lines(function), f"{module}.{function.name}")
        for module, (_, tree) in modules().items()
        for function in functions(tree)
    ]
    assert [each for each in found if each[0] > MOST_FUNCTION_LINES] == []
    assert statistics.median(lines for lines, _ in found) <= 5


@pytest.mark.parametrize("folder", ["tests", "tools", "benchmarks"])
def test_functions_outside_the_packages_are_no_longer(folder):
    long = [
        f"{path.relative_to(REPO)}:{function.lineno}"
        for path in sorted((REPO / folder).rglob("*.py"))
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if num_lines(function) > MOST_FUNCTION_LINES
    ]
    assert long == []


def array_types(source: str) -> list[str]:
    """Kinds of arrays that a module writes out, as `NDArray[np.int32]`."""
    found = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Subscript)]
    return [text for text in found if re.match(r"(\w+\.)*(NDArray\[(np|numpy)\.|ndarray\[)", text)]


def test_kinds_of_arrays_are_named_in_one_place():
    names = PACKAGES["edge_runtime"] / "base" / "arrays.py"
    kinds = array_types(names.read_text(encoding="utf-8"))
    assert len(set(kinds)) == len(kinds) > 0
    found = [
        f"{path.relative_to(REPO)}: {text}"
        for folder in (*PACKAGES.values(), REPO / "tests")
        for path in sorted(folder.rglob("*.py*"))
        if path.suffix in (".py", ".pyi") and path != names
        for text in array_types(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_written_out_array_type_is_found():
    lines = ("x: NDArray[np.int32]", "x: npt.NDArray[numpy.bool_] | None", "x: np.ndarray[tuple[int], np.dtype[Any]]")
    assert [len(array_types(line)) for line in lines] == [1, 1, 1]
    assert array_types("x: NDArray[Any]\ny: F32\nz: list[np.int32]") == []


def test_what_is_public_says_what_it_is():
    silent = [
        f"{module}.{getattr(node, 'name', '')}"
        for module, (_, tree) in modules().items()
        for node in [tree, *public(tree)]
        if ast.get_docstring(node) is None and not is_overload(node)
    ]
    assert silent == []


def public(parent: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions without a leading underscore, and those inside such classes, not inside functions."""
    for node in parent.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(each) for each in getattr(node, "decorator_list", []))


OF_PYTHON = {"_replace", "_fields", "_exit"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_PYTHON


def reaches_inside(source: str) -> Iterator[str]:
    """Yield where a test uses what is private: as an attribute, by an import, in a text that names it, in a script."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield f"{node.lineno} {node.attr}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            paths = names if isinstance(node, ast.Import) else [f"{node.module}.{name}" for name in names]
            yield from (f"{node.lineno} {path}" for path in paths if is_inside(path))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "setattr",
            "getattr",
            "patch",
        ):
            given = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from (f"{node.lineno} {text}" for text in given if is_private(text.rpartition(".")[2]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"{node.lineno} {found[0]}" for found in IN_A_SCRIPT.finditer(node.value))


IN_A_SCRIPT = re.compile(r"\b(?!self\b|cls\b|sys\b|os\b)[a-z]\w*\._(?!_|replace\b|fields\b|native\b)\w+ *(=|\()")
"""A call or an assignment of something private in the text of a script."""


def is_inside(path: str) -> bool:
    """Whether something imported is of ours and private."""
    root, *names = path.split(".")
    return root in PACKAGES and any(is_private(name) for name in names)


def test_tests_use_what_is_public():
    """A test that reaches inside says how something is done, and breaks when it is done otherwise."""
    found = [
        f"{path.relative_to(REPO)}:{line}"
        for path in sorted((REPO / "tests").rglob("*.py"))
        if path != Path(__file__)
        for line in reaches_inside(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "engine._parts",
        "from edge_runtime.engine.api import _open",
        "import edge_runtime.experts._native",
        'patch.setattr(module, "_PAUSE_S", 0)',
        'patch.setattr("edge_runtime.engine.api._PAUSE_S", 0)',
        'SCRIPT = "import guard; guard._LIMIT_S = 1"',
    ],
)
def test_a_test_that_reaches_inside_is_found(line):
    assert len(list(reaches_inside(line))) == 1
    assert list(reaches_inside(line.replace("._", ".").replace("_PAUSE", "PAUSE").replace("_open", "open"))) == []


def test_modules_that_tests_import_by_bare_name_are_found_in_one_folder():
    """All four are on the path of one run: of two modules of one name, the one imported first is everybody's."""
    folders = ("tests", "tests/systemd", "tools", "tools/release")
    where: dict[str, list[str]] = {}
    for path in (path for folder in folders for path in sorted((REPO / folder).glob("*.py"))):
        where.setdefault(path.stem, []).append(str(path.relative_to(REPO)))
    assert [paths for paths in where.values() if len(paths) > 1] == []


def test_no_test_adds_another_folder_to_the_path():
    """Else the test above has a gap."""
    adds = re.compile(r"sys\.path\.(?:insert|append)\(.*")
    known = re.compile(
        r"Path\(__file__\)\.parent\)|REPO / \"tools(?:/release)?\"|parents\[2\] / \"tools\"|sys\.argv\[1\]|\"tests"
    )
    found = [
        f"{path.relative_to(REPO)}: {call}"
        for path in sorted((REPO / "tests").rglob("*.py"))
        for call in adds.findall(path.read_text(encoding="utf-8"))
        if path.name != "test_structure.py" and not known.search(call)
    ]
    assert found == []
