"""What tests of an export by name share: a checkpoint on a hub of this machine, and its bundle from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import families
import pytest
from fake_hub import FakeHub, serving

from hobbit_export.cli import main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make_checkpoint("qwen3_moe", tmp_path_factory.mktemp("hub") / "tiny", sharded=True)


@pytest.fixture(scope="session")
def from_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "bundle"
    assert main([str(checkpoint), "--out", str(out), "--no-self-check"]) == 0
    return out


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub")
    with serving(checkpoint, tmp_path / "cache", monkeypatch) as served:
        yield served
