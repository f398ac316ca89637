"""--keep-source: the files of a hub lie whole beside the bundle, and one that changed is never exported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_exports import export, same_parts

from hobbit_export.cli import main

pytestmark = pytest.mark.oracle


def test_the_whole_source_may_be_kept(
    hub: FakeHub, checkpoint: Path, from_folder: Path, tmp_path: Path, capsys
) -> None:
    kept = tmp_path / "kept"
    assert export(tmp_path / "bundle", "--keep-source", str(kept)) == 0
    for path in checkpoint.glob("*.safetensors"):
        assert (kept / path.name).read_bytes() == path.read_bytes()
    assert same_parts(tmp_path / "bundle", from_folder)


def test_a_kept_file_that_changed_is_never_exported(hub: FakeHub, tmp_path: Path, capsys) -> None:
    """The hub's library fetches it anew where its time says so; where it does not, its digest tells."""
    kept, bundle = tmp_path / "kept", tmp_path / "bundle"
    assert export(bundle, "--keep-source", str(kept)) == 0
    shard = next(kept.glob("*.safetensors"))
    before, whole = shard.stat(), shard.read_bytes()
    shard.write_bytes(bytes(before.st_size))
    os.utime(shard, (before.st_atime + 60, before.st_mtime + 60))
    assert export(bundle, "--keep-source", str(kept), "--no-resume") == 0
    assert shard.read_bytes() == whole
    shard.write_bytes(bytes(before.st_size))
    os.utime(shard, (before.st_atime, before.st_mtime))
    capsys.readouterr()
    assert export(bundle, "--keep-source", str(kept), "--no-resume") == 78
    assert f"{shard.name}: expected the digest" in capsys.readouterr().err


def test_keep_source_is_for_names(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "bundle")
    assert main([str(checkpoint), "--out", out, "--keep-source", str(tmp_path / "kept")]) == 78
    assert "--keep-source: " in capsys.readouterr().err
