"""What tests/installed/inside.py lets pass of modules that do not import where the product is installed."""

from __future__ import annotations

import importlib
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tests/installed"))

import inside


def failing(monkeypatch, lacks):
    def fail(module):
        raise ImportError(f"No module named {lacks!r}", name=lacks)

    monkeypatch.setattr(importlib, "import_module", fail)


@pytest.mark.parametrize(
    ("module", "lacks", "installed"),
    [
        ("hobbit_export.trunk", "onnx", True),  # a module of the extra that is not where it is looked for
        ("hobbit_export.trunk", "onnx.moved", True),
        ("hobbit_export.trunk", "numpy", False),
        ("edge_runtime.engine", "onnx", False),
    ],
)
def test_a_module_that_fails_for_another_reason_is_a_fault(monkeypatch, module, lacks, installed):
    failing(monkeypatch, lacks)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    with pytest.raises(ImportError):
        inside.is_imported(module)


def test_a_module_of_an_extra_that_is_not_there_is_left_out(monkeypatch):
    failing(monkeypatch, "onnx.helper")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert inside.is_imported("hobbit_export.trunk") is False


def test_a_module_that_is_there_is_imported():
    assert inside.is_imported("edge_runtime")
