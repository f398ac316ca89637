"""A drive that fills up: refused before the start if it can be known, explained if not, and resumable."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_drives import small_drive
from synthetic import qwen3_config, run_export, write_qwen3

from edge_runtime.base.errors import BudgetError
from edge_runtime.bundle.bundle import Bundle
from hobbit_export import workplace
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Path]:
    with small_drive(tmp_path / "drive", "2m") as mount:
        yield mount


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_qwen3(tmp_path / "ck", qwen3_config(128, 128, 16, 4))


def test_known_in_advance(drive: Path, checkpoint: Path) -> None:
    code, _, err = run_export(checkpoint, "--out", drive / "bundle")
    assert code == 78
    assert "the bundle needs" in err
    assert "free" in err
    assert sorted(p.name for p in (drive / "bundle").iterdir()) == ["export.journal"]


def test_full_while_writing_then_resumed(drive: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExportOptions(checkpoint, drive / "bundle")
    monkeypatch.setattr(workplace, "check_space", lambda out, needed: None)
    with pytest.raises(BudgetError, match=r"the drive is full: the bundle needs \d+ bytes in all, \d+ are free"):
        export(options, quiet=True)
    done = (drive / "bundle/export.journal").read_text().count('"step"')
    assert done > 3
    subprocess.run(["mount", "-o", "remount,size=64m", drive], check=True)
    monkeypatch.undo()
    report = export(options, quiet=True)
    assert report.steps_resumed == done
    Bundle.open(drive / "bundle")
