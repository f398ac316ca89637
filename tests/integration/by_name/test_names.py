"""Which arguments are names, and which file of a model a name means: a GGUF file has its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub
from gguf_files import write_gguf
from hub_exports import export, same_parts

from hobbit_export.hub.name import HubName, hub_name

pytestmark = pytest.mark.oracle


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("Qwen/Qwen3-30B-A3B") == HubName("Qwen/Qwen3-30B-A3B", None)
    assert hub_name("org/name:Q4/x-00001-of-00002.gguf") == HubName("org/name", None, "Q4/x-00001-of-00002.gguf")
    assert hub_name("org/name@v1:x.gguf") == HubName("org/name", "v1", "x.gguf")
    assert hub_name("org/name@refs/pr/3") == HubName("org/name", "refs/pr/3")
    for path in (
        "./org/name",
        "/org/name",
        "org",
        "org/name/",
        "a/b/c",
        "models/x.gguf",
        "org/name:x.bin",
        "org/..",
        "../name",
        "",
    ):
        assert hub_name(path) is None, path
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub_name("org/name") is None
    shutil.rmtree(tmp_path / "org")


@pytest.fixture
def ggufs(hub: FakeHub, checkpoint: Path, tmp_path: Path) -> Path:
    """The hub has a GGUF model in three splits, in a folder, beside another file."""
    folder = tmp_path / "served"
    (folder / "f32").mkdir(parents=True)
    write_gguf(checkpoint, folder / "f32" / "m.gguf", splits=10)
    (folder / "other.gguf").write_bytes(b"GGUF")
    hub.folder = folder
    return folder


def test_a_gguf_file_by_name(hub: FakeHub, ggufs: Path, tmp_path: Path, capsys) -> None:
    splits = sorted(path.name for path in (ggufs / "f32").iterdir())
    assert len(splits) == 3
    name, out = f"org/tiny:f32/{splits[0]}", tmp_path / "bundle"
    assert export(out, "--dry-run", "--json", name=name) == 0
    assert json.loads(capsys.readouterr().out)["source"] == f"org/tiny@{COMMIT}:f32/{splits[0]}"
    assert export(out, name=name) == 0
    local, kept = tmp_path / "local", tmp_path / "kept"
    assert export(local, name=str(ggufs / "f32" / splits[0])) == 0
    assert same_parts(out, local)
    assert {each for each, _, _ in hub.ranges} == {f"f32/{split}" for split in splits}
    assert export(tmp_path / "third", "--keep-source", str(kept), name=name) == 0
    assert same_parts(tmp_path / "third", local)
    assert sorted(path.name for path in (kept / "f32").iterdir()) == splits
    assert not (kept / "other.gguf").exists()


def test_a_gguf_file_that_is_not_there(hub: FakeHub, ggufs: Path, tmp_path: Path, capsys) -> None:
    assert export(tmp_path / "bundle", name="org/tiny:f32/n.gguf") == 78
    message = capsys.readouterr().err
    assert "there is no f32/n.gguf" in message
    assert "given as org/tiny:FILE, FILE being f32/m-00001-of-00003.gguf, other.gguf." in message
    assert export(tmp_path / "bundle") == 78
    assert "found no config.json in it. Its GGUF files are given as org/tiny:FILE" in capsys.readouterr().err
    assert export(tmp_path / "bundle", name="org/tiny:other.gguf") == 78
    assert "other.gguf: expected a GGUF file, got 4 bytes (truncated)" in capsys.readouterr().err
    assert export(tmp_path / "bundle", name="org/tiny:f32/m-00002-of-00003.gguf") == 78
    assert "is not the first of 3 splits. Give m-00001-of-00003.gguf" in capsys.readouterr().err
