"""tools/models_table.py: docs/models.md is what its generator writes, and names what people look for."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from hobbit_export.arch import ADAPTERS


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("models_table")


def test_the_page_is_up_to_date(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0, "run python tools/models_table.py"


def test_an_old_page_is_found(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "models.md"
    old.write_text(tool.PAGE.read_text().replace("GiB", "MiB"))
    monkeypatch.setattr(tool, "PAGE", old)
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0


def test_every_family_and_every_published_model_has_a_line(tool: ModuleType) -> None:
    page = tool.PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == set(ADAPTERS)
    for model in tool.published():
        assert f"\n| {model.name} |" in page


def test_differences_stay_within_the_claim(tool: ModuleType) -> None:
    assert max(max(each) for each in tool.results().values()) <= 2e-3
