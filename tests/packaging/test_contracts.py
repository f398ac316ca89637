"""Import contracts of pyproject.toml that list modules list every one: what is left out may import anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import pytest
from conftest import REPO

ROOT = "edge_runtime"
# a contract about a package takes in all that is below it: one about the root would be one about everything
REGISTRY = f"{ROOT}.backends"
EVERY_MODULE_BUT = {
    "only the registry names a backend": {ROOT, REGISTRY, f"{ROOT}.backends.cpu", f"{ROOT}.backends.cuda"},
    "what the extra `serve` installs is imported by the service alone": {ROOT, f"{ROOT}.service"},
}


def contract(name: str) -> dict[str, list[str]]:
    """Return the lists of modules of a contract."""
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = (b for b in text.split("[[tool.importlinter.contracts]]") if f'\nname = "{name}"\n' in b)
    lists = re.findall(r"^(\w+_modules) = (\[.*?\])$", block, re.MULTILINE | re.DOTALL)
    return {key: ast.literal_eval(value) for key, value in lists}


def modules() -> set[str]:
    """Every module of the runtime by name, packages included."""
    parts = (path.relative_to(REPO).with_suffix("").parts for path in (REPO / ROOT).rglob("*.py"))
    return {".".join(each[:-1] if each[-1] == "__init__" else each) for each in parts}


def is_below(module: str, packages: Iterable[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


@pytest.mark.parametrize("name", EVERY_MODULE_BUT)
def test_a_contract_lists_every_module_it_is_about(name):
    sources, exempt = contract(name)["source_modules"], EVERY_MODULE_BUT[name]
    own = exempt - {ROOT, REGISTRY}  # with what is below them; of the root and the registry the module itself
    left_out = {m for m in modules() if m not in exempt and not is_below(m, [*sources, *own])}
    assert left_out == set()
    assert [source for source in sources if is_below(source, own)] == []


def test_every_backend_there_is_is_forbidden():
    found = {path.parent.name for path in (REPO / ROOT / "backends").glob("*/__init__.py")}
    forbidden = contract("only the registry names a backend")["forbidden_modules"]
    assert {each.rpartition(".")[2] for each in forbidden} == found


@pytest.mark.parametrize("name", EVERY_MODULE_BUT)
def test_the_root_imports_none_of_it(name):
    """It is in no list, so it is looked at here."""
    text = (REPO / ROOT / "__init__.py").read_text(encoding="utf-8")
    assert [each for each in contract(name)["forbidden_modules"] if each.removeprefix(f"{ROOT}.") in text] == []
