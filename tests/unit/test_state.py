"""The state folder has its version before anything else: whoever writes there, and whatever happens meanwhile."""

from __future__ import annotations

import os
import re
from pathlib import Path

import board_trees
import numpy as np
import pytest
from nvpmodel_script import install

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle import state
from edge_runtime.bundle.state import make_folder, remember, state_folder
from edge_runtime.cli.chat.history import HistoryFile
from edge_runtime.engine.warm.usage import UsageFile
from edge_runtime.lab.bench.power_modes import PowerModes
from edge_runtime.transfer.sent import Sent

PACKAGE = Path(state.__file__).parents[1]


def use(_: Path) -> None:
    UsageFile.of("b" * 64, "chat", (1, 2)).add(np.ones((1, 2), np.int64))


def type_in_a_chat(_: Path) -> None:
    HistoryFile.of_user().add("hello")


def push(_: Path) -> None:
    Sent("http://server/", "b" * 64).add("part", "mark")


def change_the_power_mode(board: Path) -> None:
    with PowerModes(board).changing():
        pass


def pass_a_check(_: Path) -> None:
    remember(state_folder() / "verified" / "marker")


WRITERS = (use, type_in_a_chat, push, change_the_power_mode, pass_a_check)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that is not there yet, on a board with power modes below `root`."""
    board_trees.nano(tmp_path / "root")
    install(tmp_path / "bin", tmp_path / "root")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return state_folder()


@pytest.mark.parametrize("write", WRITERS)
def test_whoever_writes_first_stamps_the_folder(folder, tmp_path, monkeypatch, write):
    write(tmp_path / "root")
    assert (folder / "version").read_text() == f"{state.VERSION}\n"
    assert not list(folder.glob("version.*"))
    monkeypatch.setattr(state, "VERSION", state.VERSION - 1)
    with pytest.raises(ConfigError, match="A later version of hobbit wrote this folder"):
        write(tmp_path / "root")


def test_every_module_that_uses_the_folder_is_among_the_writers():
    uses = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bstate_folder\(\)", path.read_text(encoding="utf-8"))
    }
    markers = {"bundle/self_check.py", "service/ops/warmup.py"}
    assert uses == markers | {
        "bundle/state.py", "cli/chat/history.py", "engine/warm/usage.py", "lab/bench/power_modes.py", "transfer/sent.py"
    }  # fmt: skip


def test_a_stamp_is_not_written_again_nor_elsewhere(folder, tmp_path):
    make_folder(folder)
    (folder / "version").write_text("0\n")
    make_folder(folder / "below")
    assert (folder / "version").read_text() == "0\n"
    make_folder(tmp_path / "elsewhere", 0o700)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_full_drive_leaves_no_half_stamp(folder, monkeypatch):
    write_text = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        write_text(path, "", **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        make_folder(folder)
    monkeypatch.undo()
    assert not list(folder.iterdir())
