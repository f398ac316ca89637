"""What an export of a model by name has on the drive beyond its bundle: never more than two of the model's files."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serving
from sharded_checkpoint import write_sharded
from synthetic import qwen3_config
from transfers import contents

from hobbit_export import exporter
from hobbit_export.cli import main
from hobbit_export.hub.files import HubFiles
from hobbit_export.hub.transport import Transport

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-moe"
LAYERS, BLOCK = 16, 200_000


def drive_bytes(folder: Path) -> int:
    """What everything below a folder takes, files of two names once, of files and folders that come and go."""
    found: dict[int, int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(root, name))
                found[status.st_ino] = status.st_size
    return sum(found.values())


class Watch:
    """Samples a folder at every block that comes, every file that is put in its place, and all the time between."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self.count, self._folder, self._end = 0, 0, folder, threading.Event()
        fetch, replace = Transport.fetch, os.replace

        def fetched(*arguments):
            yield from fetch(*arguments)
            self.look()

        def replaced(*arguments):
            self.look()
            replace(*arguments)
            self.look()

        monkeypatch.setattr(Transport, "fetch", fetched)
        monkeypatch.setattr(os, "replace", replaced)

    def look(self) -> None:
        self.most, self.count = max(self.most, drive_bytes(self._folder)), self.count + 1

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        def sample() -> None:
            while not self._end.wait(0.02):
                self.look()

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sharded(tmp_path_factory.mktemp("ck") / "tiny", qwen3_config(64, 320, 4, LAYERS))


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(exporter, "measure_quality", lambda *arguments: None)
    with serving(checkpoint, tmp_path / "cache", monkeypatch) as served:
        yield served


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes((EXAMPLE / "heldout_prose.txt").read_text().encode("ascii", "ignore")[:1100])
    return path


@pytest.mark.parametrize("trunk", ["auto", "int4"])
def test_two_files_at_most_with_a_text(hub: FakeHub, text: Path, tmp_path: Path, monkeypatch, trunk: str) -> None:
    """Of each layer what the text put into it, of a trunk to be chosen both, and blocks of the source."""
    monkeypatch.setattr(HubFiles.__init__, "__defaults__", (BLOCK,))
    flags = ["--calibrate", str(text), "--trunk", trunk, "--no-self-check"]
    watch, out = Watch(tmp_path, monkeypatch), tmp_path / "bundle"
    with watch.looking():
        assert main(["org/tiny", "--out", str(out), *flags]) == 0
    small = drive_bytes(tmp_path / "cache")
    largest = max(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    beyond = watch.most - drive_bytes(out) - small
    assert watch.count > 100
    assert 0 < beyond <= 2 * largest, f"{beyond / largest:.2f} files"
    assert (out / "calibration/trunk.json").exists() == (trunk == "auto"), "there was room to choose"
    monkeypatch.undo()
    monkeypatch.setattr(exporter, "measure_quality", lambda *arguments: None)
    assert main([str(hub.folder), "--out", str(tmp_path / "local"), *flags]) == 0
    by_name, local = contents(out), contents(tmp_path / "local")
    assert {name for name in local if local[name] != by_name.get(name)} == {"manifest.json"}


def test_a_trunk_for_which_there_is_no_room_is_not_chosen(hub: FakeHub, text: Path, tmp_path: Path, capsys) -> None:
    for path in hub.folder.glob("*.safetensors"):
        assert path.stat().st_size > 1 << 20
    few = write_sharded(tmp_path / "few", qwen3_config(64, 32, 2, 2))
    hub.folder = few
    assert main(["org/tiny", "--out", str(tmp_path / "b"), "--calibrate", str(text), "--no-self-check"]) == 0
    assert (
        "trunk: int8: a second trunk beside it, to be measured, would take more of the drive" in capsys.readouterr().out
    )
    assert not (tmp_path / "b/calibration/trunk.json").exists()
