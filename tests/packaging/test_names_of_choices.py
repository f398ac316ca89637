"""What is chosen by name is asked what it can do, never what it is called: names stand in registries and reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from conftest import REPO

from edge_runtime.backends import BACKENDS
from edge_runtime.experts.eviction import RULES
from edge_runtime.policy import POLICIES
from edge_runtime.prefetch import PREDICTORS

NAMES = {*POLICIES, *RULES, *PREDICTORS, *BACKENDS}
SOURCES = [REPO / "edge_runtime", REPO / "export" / "hobbit_export"]
OF_SOMETHING_ELSE = {
    'edge_runtime/engine/assembly.py: config.speculate == "off"': "a mode of speculation",
    "edge_runtime/cli/chat/settings.py: text.lower() in _NONE": "a word for no value",
    'edge_runtime/lab/doctor/checks/memory.py: name == "hobbit"': "a program",
    'export/hobbit_export/probe.py: self.disturbance.change == "skip"': "what a calibration does to an expert",
}
"""Comparisons with a word that is a name by chance."""


def compared(tree: ast.AST) -> Iterator[tuple[ast.AST, set[str]]]:
    """Yield what compares with texts, or chooses by them, and these texts; constants of the module count as theirs."""
    constants = {
        target.id: node.value
        for node in ast.walk(tree) if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip

    def texts(node: ast.AST | None) -> set[str]:
        if isinstance(node, ast.Name):
            found = constants.get(node.id)
            return texts(found) if isinstance(found, (ast.Constant, ast.Tuple, ast.List, ast.Set)) else set()
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return set().union(*(texts(each) for each in node.elts))
        return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node, set().union(*(texts(each) for each in (node.left, *node.comparators)))
        elif isinstance(node, ast.MatchValue):
            yield node, texts(node.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            yield node, set().union(*(texts(key) for key in node.value.keys))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (
            "startswith", "endswith",
        ):  # fmt: skip
            yield node, set().union(*(texts(each) for each in node.args))


def is_tested(text: str) -> bool:
    """Whether a text asks for something registered, with parameters or without."""
    return text.partition(":")[0] in NAMES


def found_in(source: str) -> list[str]:
    return [ast.unparse(node) for node, texts in compared(ast.parse(source)) if any(map(is_tested, texts))]


def test_no_code_asks_for_a_name():
    found = {
        f"{path.relative_to(REPO)}: {line}".replace("'", '"')
        for folder in SOURCES
        for path in sorted(folder.rglob("*.py"))
        for line in found_in(path.read_text(encoding="utf-8"))
    }
    assert sorted(found - {*OF_SOMETHING_ELSE}) == []
    assert sorted({*OF_SOMETHING_ELSE} - found) == [], "nothing is excused that is not there"


@pytest.mark.parametrize(
    "line",
    [
        'name == "lossless"',
        '"cuda" != name',
        'name in ("cpu", "other")',
        'FIRST = "lru"\nname == FIRST',
        'text.startswith("rate-distortion")',
        'text == "lookahead:depth=1"',
        '{"cuda": 1, "x": 2}[name]',
        'match name:\n    case "hobbit":\n        pass',
    ],
)
def test_it_is_found_in_any_form(line):
    assert len(found_in(line)) == 1


def test_other_words_are_let_pass():
    assert found_in('name == "auto"\nkind in ("native", "onnx")\nadd("lossless")\n{"cuda": 1}') == []
