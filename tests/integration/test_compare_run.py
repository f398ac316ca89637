"""The comparison's runner on a real bundle in real cgroups, against a stand-in for the peer's server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import fake_llama_server
import pytest

from benchmarks.compare import report, results, run
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.report import BEGIN, END
from benchmarks.source import commit
from edge_runtime.backends.cpu.kernels import available_isas

pytestmark = pytest.mark.cgroup
MIB = 1 << 20


@pytest.fixture
def job(tmp_path, model_bundle, monkeypatch):
    """Arguments of a run: a folder with the stand-in, a stream, a file of the size the caps refer to."""
    try:
        with MemoryGroup(None):
            pass
    except SystemExit as err:
        pytest.skip(f"NO MEMORY CGROUP: the comparison was not run here ({err})")
    peer = tmp_path / "peer"
    peer.mkdir()
    shutil.copy(fake_llama_server.__file__, peer / "llama-server.py")
    (peer / "llama-server").write_text(f'#!/bin/sh\nexec {sys.executable} {peer}/llama-server.py "$@"\n')
    (peer / "llama-server").chmod(0o755)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "stream.json").write_text(json.dumps([7 * i % 251 for i in range(4096)]))
    (checkpoint / "stream.txt").write_text("def main(): pass " * 300)
    gguf = tmp_path / "m.gguf"
    with open(gguf, "wb") as file:
        file.truncate(800 * MIB)
    # dropping the page cache would slow every other test of this machine, and needs no test
    monkeypatch.setattr(run, "drop_caches", lambda: None)
    model = ["--model", "tiny", str(checkpoint), str(model_bundle), str(gguf)]
    return ["--peer", f"llama.cpp={peer}", *model, "--rounds", "1", "--out", str(tmp_path / "r.jsonl")]


def test_a_run_is_resumed_and_reported(job, tmp_path, capsys):
    flags = ["--regime", "50", "--mode", "mmap", "dio", "--hobbit-at"]
    assert run.main([*job, *flags, "--cells", "1"]) == run.MORE_TO_DO
    assert run.main([*job, *flags]) == 0
    said = capsys.readouterr().out
    assert said.count("tok/s decode") + said.count("decode ") >= 2
    assert "everything is measured" in said
    entries = results.read(tmp_path / "r.jsonl")
    cells = [e for e in entries if "side" in e]
    assert [(c["side"], c["variant"]) for c in cells] == [
        ("ours", "lossless"),
        ("llama.cpp", "mmap"),
        ("llama.cpp", "dio"),
    ]
    assert sum("settings" in e for e in entries) == 1
    assert all(c["machine"]["isa"] in available_isas() and c["machine"]["cpus"] for c in cells)
    assert all(c["commit"] == commit() for c in cells)
    assert cells[0]["measured"]["isa"] == cells[0]["machine"]["isa"]
    assert all(c["fio_gbps"] is None or c["fio_gbps"] > 0 for c in cells)
    assert cells[1]["version"].startswith("version: 7912")
    ours, peer, failed = cells
    assert ours["cap_bytes"] == 400 * MIB
    assert 0 < ours["peak_bytes"] <= 400 * MIB
    assert ours["measured"]["budget_bytes"] <= 400 * MIB, "auto takes the cgroup's cap"
    for stage, tokens in (("prefill_cold", 128), ("decode", 64), ("prefill", 128)):
        assert ours["measured"][stage]["n"] == peer["measured"][stage]["n"] == tokens
        assert ours["measured"][stage]["ms"] > 0
    assert peer["measured"]["decode"]["ms"] == pytest.approx(64 * fake_llama_server.STEP_MS)
    assert "failed to allocate buffer" in failed["error"]
    assert ours["drive_gbps"] > 0 < ours["bus_gbps"]
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    plot = tmp_path / "images" / "b.png"
    assert report.main(["--results", str(tmp_path / "r.jsonl"), "--page", str(page), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "| tiny | 50 % |" in page.read_text()
    assert "images/b.png" in page.read_text()
    assert run.main([*job, *flags]) == 0
    assert len(results.read(tmp_path / "r.jsonl")) == len(entries), "nothing is measured twice"


def test_what_exceeds_the_cap_is_killed_and_said_so():
    try:
        group = MemoryGroup(64 * MIB)
    except SystemExit as err:
        pytest.skip(f"NO MEMORY CGROUP ({err})")
    with group:
        hungry = "x = bytearray(200 << 20)"
        done = subprocess.run(group.command([sys.executable, "-c", hungry]), capture_output=True, check=False)
        assert done.returncode != 0
        assert group.oom_kills >= 1
        assert (group.peak_bytes or 64 * MIB) <= 64 * MIB
    assert not group.path.exists()


def test_the_page_cache_counts_in_the_group(tmp_path: Path):
    file = tmp_path / "f"
    file.write_bytes(bytes(8 * MIB))
    subprocess.run(["sync", str(file)], check=False)
    reader = f"import os; fd = os.open({str(file)!r}, 0); os.posix_fadvise(fd, 0, 0, 4); os.read(fd, 8 << 20)"
    try:
        group = MemoryGroup(None)
    except SystemExit as err:
        pytest.skip(f"NO MEMORY CGROUP ({err})")
    with group:
        subprocess.run(group.command([sys.executable, "-c", reader]), check=True)
        assert group.peak_bytes is None or group.peak_bytes > 8 * MIB
