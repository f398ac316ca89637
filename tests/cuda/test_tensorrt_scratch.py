"""What TensorRT's plans are built in: nothing is left of a process that was killed, and nothing of others is taken."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_runtime.backends.cuda.tensorrt.plans import Plans
from edge_runtime.backends.cuda.tensorrt.scratch_folder import scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from edge_runtime.backends.cuda.tensorrt.scratch_folder import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_deleted_and_what_is_in_use_stays(tmp_path: Path):
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        folders = [Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout is not None]
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        assert folders[0].exists()
        (tmp_path / "layer.plan").touch()
        with scratch_folder(tmp_path) as mine:
            assert [folders[0].exists(), folders[1].exists(), mine.exists()] == [False, True, True]
        assert sorted(tmp_path.iterdir()) == sorted([folders[1], tmp_path / "layer.plan"])
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_where_nothing_can_be_written_the_systems_place_is_taken(tmp_path: Path):
    (tmp_path / "file").touch()
    with scratch_folder(tmp_path / "file" / "engines") as folder:
        (folder / "weights").touch()
    assert not folder.exists()


def test_a_plan_that_cannot_be_removed_is_no_reason_to_fail(tmp_path: Path, monkeypatch, caplog):
    manifest = SimpleNamespace(bundle_id="b" * 64, parts=[])
    library: Any = SimpleNamespace(name="tensorrt", version=SimpleNamespace(name="10.3"))
    builder: Any = SimpleNamespace(build=lambda low, path, profiles: b"plan")
    low: Any = SimpleNamespace(write=lambda folder: folder / "x.onnx")
    plans = Plans(SimpleNamespace(manifest=manifest), library, ("gpu",), (), 1, lambda _: builder, tmp_path)  # type: ignore[arg-type]
    old = tmp_path / f"{'b' * 16}-head-old.plan"
    old.touch()

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    with caplog.at_level(logging.WARNING):
        assert plans.build("trunk/head.onnx", low) == b"plan"
    assert f"{old} cannot be removed: Permission denied" in caplog.text
    assert plans.kept("trunk/head.onnx") == b"plan"
