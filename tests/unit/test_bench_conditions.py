"""What makes the figures of a benchmark comparable: cold caches that are, temperature, and whether the machine changed."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from edge_runtime.base.errors import RequestError
from edge_runtime.lab.bench import page_cache
from edge_runtime.lab.bench.page_cache import drop_page_cache, page_cache_of
from edge_runtime.lab.bench.steadiness import throttled, warnings
from edge_runtime.lab.bench.thermal_gate import ThermalGate

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path):
    """Files of 9 MiB and a little, just written: in the page cache, and not all of them on the drive yet."""
    (tmp_path / "experts").mkdir()
    (tmp_path / "experts/one").write_bytes(os.urandom(8 * MIB))
    (tmp_path / "two").write_bytes(os.urandom(MIB + 5))
    (tmp_path / "empty").write_bytes(b"")
    return tmp_path


def kind_of(path: Path) -> str:
    best = max(
        (
            line.split()
            for line in Path("/proc/mounts").read_text().splitlines()
            if str(path).startswith(line.split()[1])
        ),
        key=lambda f: len(f[1]),
    )
    return best[2]


def test_mincore_sees_what_is_cached_and_what_was_dropped(folder):
    if kind_of(folder) in ("tmpfs", "ramfs"):
        pytest.skip("temporary files are in memory here")
    found = page_cache_of(folder)
    assert found.file_bytes == 9 * MIB + 5
    assert found.share == pytest.approx(1, abs=0.01)
    left = drop_page_cache(folder)
    assert left.cached_bytes == 0, "pages that were dirty too"
    with open(folder / "two", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 4096, 0)
    assert 0 < page_cache_of(folder).cached_bytes < MIB


def test_what_somebody_maps_cannot_be_dropped_and_that_is_no_cold_start(folder):
    with open(folder / "experts/one", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        with pytest.raises(RequestError, match=r"cache: cold: 8\d % .* stays in memory.*--cache warm"):
            drop_page_cache(folder, pause_s=0)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory here")
def test_a_bundle_in_memory_is_never_cold():
    folder = Path("/dev/shm") / f"hobbit-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "file").write_bytes(bytes(MIB))
        with pytest.raises(RequestError, match="cache: cold: 100 %"):
            drop_page_cache(folder, pause_s=0)
    finally:
        (folder / "file").unlink()
        folder.rmdir()


def test_where_the_kernel_does_not_tell_nothing_is_claimed(folder, monkeypatch):
    monkeypatch.setattr(page_cache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(page_cache.os, "geteuid", lambda: 12345)
    assert page_cache_of(folder).cached_bytes is None
    assert page_cache_of(folder).share is None
    assert drop_page_cache(folder).share is None


class Board:
    """Cools down by a degree a second."""

    def __init__(self, *temperatures: float | None) -> None:
        self.now, self.temperatures = 0.0, list(temperatures)

    def read(self):
        return self.temperatures.pop(0) if len(self.temperatures) > 1 else self.temperatures[0]

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def gate(self, **kind) -> ThermalGate:
        settings = {"rise_c": 5.0, "limit_s": 60.0} | kind
        return ThermalGate(self.read, clock=lambda: self.now, pause=self.pause, **settings)


def test_a_hot_board_is_waited_for():
    gate = Board(50.0, 60.0, 58.0, 56.0, 54.9).gate()
    first = gate.wait()
    assert (first.hottest_c, first.limit_c, first.waited_s, first.is_met) == (50.0, None, 0.0, None)
    second = gate.wait()
    assert (second.hottest_c, second.limit_c, second.is_met) == (54.9, 55.0, True)
    assert second.waited_s == 0.75


def test_a_board_that_stays_hot_is_marked():
    gate = Board(50.0, 80.0).gate(limit_s=2.0)
    gate.wait()
    passed = gate.wait()
    assert passed.is_met is False
    assert passed.waited_s == 2.0


def test_no_temperature_no_gate():
    gate = Board(None).gate()
    assert [gate.wait().is_met, gate.wait().is_met] == [None, None]


def test_a_gate_that_never_waits_still_says_how_hot_it_was():
    gate = Board(50.0, 80.0).gate(limit_s=0.0)
    gate.wait()
    assert (gate.wait().is_met, gate.wait().waited_s) == (False, 0.0)


def bench(**changed):
    request = {
        "number": 0, "thermal_gate": {"is_met": True},
        "conditions_before": {"throttle_events": {"oc3": 3}}, "conditions_after": {"throttle_events": {"oc3": 3}},
    }  # fmt: skip
    base = {
        "sentinel": {"is_steady": True, "change_percent": 1.0}, "requests": [request],
        "prompts": {"distinct": 5, "requests": 5},
        "cache_proof": {"state": "warm", "is_proven": True, "residents_at_start": [9], "room_for_experts": 9},
    }  # fmt: skip
    return base | changed


def test_a_steady_run_has_no_warnings():
    assert warnings(bench()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sentinel": {"is_steady": False, "change_percent": -12.0}}, "the machine changed.*-12.0 %"),
        ({"prompts": {"distinct": 2, "requests": 5}}, "prompts repeat"),
        (
            {"cache_proof": {"state": "warm", "is_proven": False, "residents_at_start": [2, 5], "room_for_experts": 9}},
            "still filling: 2 to 5 of 9",
        ),
        ({"cache_proof": {"state": "cold", "is_proven": None}}, "nothing proves"),
        ({"cache_proof": {"state": "cold", "is_proven": False}}, "were not cold"),
    ],
)
def test_what_makes_figures_doubtful_is_said(changed, words):
    (found,) = warnings(bench(**changed))
    import re

    assert re.search(words, found)


def test_heat_and_throttling_are_said():
    hot = bench()
    request = hot["requests"][0] | {"thermal_gate": {"is_met": False}}
    request["conditions_after"] = {"throttle_events": {"oc3": 5, "new": 2}}
    assert throttled([request]) == {"oc3": 2}
    first, second = warnings(hot | {"requests": [request]})
    assert "began hotter than allowed" in first
    assert "oc3 +2" in second
