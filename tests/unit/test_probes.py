"""Probes: what they compute from samples, what they say where nothing can be measured, and what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median

import pytest

from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.lab.probes import PROBES, RegisteredProbe, Subject, drive_grid, drive_sustained, memory
from edge_runtime.lab.probes.report import names_of, run_probes
from edge_runtime.telemetry.drive_link import describe_link
from edge_runtime.telemetry.drive_probe import DriveCeiling, Extent

MIB = 1 << 20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """What an Orin with an NVMe drive in a slot that trained two lanes of four shows of it."""
    root = tmp_path / "root"
    bus = root / "sys/devices/platform/bus@0/14160000.pcie/pci0004:00/0004:00:00.0/0004:01:00.0"
    for name, text in (
        ("current_link_speed", "8.0 GT/s PCIe\n"), ("current_link_width", "2\n"),
        ("max_link_speed", "16.0 GT/s PCIe\n"), ("max_link_width", "4\n"),
        ("nvme/nvme0/hwmon2/temp1_input", "47850\n"), ("nvme/nvme0/model", "Samsung SSD 980\n"),
        ("nvme/nvme0/nvme0n1/queue/rotational", "0\n"), ("nvme/nvme0/nvme0n1/nvme0n1p1/partition", "1\n"),
    ):  # fmt: skip
        write(bus / name, text)
    (bus / "nvme/nvme0/nvme0n1/device").symlink_to("..")
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (numbers / "259:1").symlink_to(bus / "nvme/nvme0/nvme0n1/nvme0n1p1")
    write(root / "proc/self/mountinfo", "29 1 259:1 / / rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw\n")
    return root


def test_a_link_that_trained_fewer_lanes_is_seen(orin, tmp_path):
    link = describe_link(tmp_path, orin, (259, 1))
    assert (link.device, link.model) == ("nvme0n1", "Samsung SSD 980")
    assert (link.speed_gt_s, link.width, link.speed_most_gt_s, link.width_most) == (8.0, 2, 16.0, 4)
    assert link.is_reduced
    assert link.gb_s == pytest.approx(8 * 2 * 128 / 130 / 8)
    assert link.celsius == 47.85
    assert (link.file_system, link.mount_options) == ("ext4", "rw,noatime")


def test_what_the_system_does_not_say_is_not_made_up(orin, tmp_path):
    for path in [*orin.rglob("temp1_input"), *orin.rglob("*_link_*")]:
        path.unlink()
    link = describe_link(tmp_path, orin, (259, 1))
    assert (link.celsius, link.gb_s, link.is_reduced) == (None, None, None)
    nothing = describe_link(tmp_path, orin, (7, 7))
    assert (nothing.device, nothing.model, nothing.file_system) == (None, None, None)


def test_old_links_spend_a_fifth_on_their_encoding(orin, tmp_path):
    for path in orin.rglob("current_link_speed"):
        path.write_text("5.0 GT/s PCIe\n")
    assert describe_link(tmp_path, orin, (259, 1)).gb_s == pytest.approx(5 * 2 * 0.8 / 8)


def point(block: int, depth: int, gbps: float, mode: str = "direct", order: str = "random") -> DriveCeiling:
    return DriveCeiling(gbps, block, depth, 1, 1.0, 0.1, 0.2, "process", 1, mode, order)  # type: ignore[arg-type]


def test_the_best_point_is_of_reads_as_misses_are():
    grid = drive_grid.DriveGrid(
        (
            point(4096, 1, 0.1),
            point(MIB, 8, 2.0),
            point(MIB, 1, 9.0, order="sequential"),
            point(MIB, 8, 9.0, "buffered"),
        )
    )
    assert (grid.best.gbps, grid.best.block_bytes) == (2.0, MIB)
    assert grid.rate(MIB, 8) == 2.0
    assert grid.rate(8192, 2) == 0.1, "the nearest point"
    assert grid.latency_us() == 100.0
    assert json.loads(json.dumps(grid.to_json()))["best"] == {"gbps": 2.0, "block_bytes": MIB, "depth": 8}


def test_a_grid_names_every_point_it_could_not_measure(monkeypatch):
    asked = []

    def probe(extents, *, block_bytes, depth, direct, order, **_):
        asked.append((block_bytes, depth, direct, order))
        if not direct:
            raise DeviceError("served from memory")
        return point(block_bytes, depth, 1.0, order=order)

    monkeypatch.setattr(drive_grid, "probe_drive", probe)
    found = drive_grid.measure([Extent(Path("x"), 0, 2 * MIB)], 0.1, blocks=(MIB, 4 * MIB), depths=(1, 2, 3))
    assert len(asked) == 2 * 3 + 2
    assert {order for *_, order in asked} == {"random", "sequential"}
    assert len(found.points) == 6
    assert sum("served from memory" in why for why in found.left_out) == 2
    assert any("the largest record" in why for why in found.left_out)


def test_a_drive_nothing_can_be_measured_of_is_an_error(monkeypatch):
    def probe(*_, **__):
        raise DeviceError("refuses O_DIRECT")

    monkeypatch.setattr(drive_grid, "probe_drive", probe)
    with pytest.raises(DeviceError, match="refuses"):
        drive_grid.measure([Extent(Path("x"), 0, MIB)], 0.1)


@pytest.mark.parametrize(
    ("samples", "kept"),
    [([2.0] * 9, 1.0), ([2.0] * 3 + [1.5] * 3 + [1.0] * 3, 0.5), ([1.0, 2.0], None), ([0.0] * 6, None)],
)
def test_throttling_is_the_last_third_against_the_first(samples, kept):
    assert drive_sustained.share_kept(samples) == kept


def test_a_throttled_drive_says_so():
    found = drive_sustained.SustainedDrive(
        DriveCeiling(1.5, MIB, 8, 1, 30.0, 1.0, 2.0, "process", 1, gbps_samples=(2.0, 2.0, 1.5, 1.5, 1.0, 1.0)),
        40.0,
        83.0,
    )
    assert found.is_throttled
    assert "THROTTLES" in "".join(found.lines())
    assert found.to_json()["celsius_after"] == 83.0


def test_memory_is_read_to_the_last_byte_by_every_number_of_threads():
    found = memory.measure(4 * MIB, 0.01, cpus=3, cache_bytes=64 * MIB)
    assert [p.threads for p in found.points] == [1, 2, 3]
    assert all(p.gb_s == median(p.samples) and len(p.samples) >= 3 for p in found.points)
    assert found.is_beyond_caches is False
    assert any("within the caches" in line for line in found.lines())
    with pytest.raises(DeviceError, match="too little"):
        memory.measure(4096, 0.01, cpus=2)


def test_the_largest_cache_is_the_systems(tmp_path):
    assert memory.largest_cache(tmp_path) is None
    for number, size in enumerate(("32K", "1024K", "4096K")):
        write(tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{number}/size", size + "\n")
    assert memory.largest_cache(tmp_path) == 4 * MIB


def test_probes_are_asked_for_by_name():
    assert names_of([]) == [*PROBES]
    assert names_of(["memory", "drive"]) == ["drive", "memory"]
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        names_of(["memry"])


def test_a_probe_that_cannot_be_measured_leaves_the_others(tmp_path):
    def fails(subject):
        raise DeviceError("no such thing here")

    class Good:
        def to_json(self):
            return {"x": 1}

        def lines(self):
            return ["fine"]

    probes = {"bad": RegisteredProbe(fails, ""), "good": RegisteredProbe(lambda subject: Good(), "")}
    bad, good = run_probes(Subject(tmp_path), ["bad", "good"], probes)
    assert bad.to_json() == {"result": None, "not_measured_because": "no such thing here"}
    assert bad.lines() == ["not measured: no such thing here"]
    assert good.to_json() == {"result": {"x": 1}, "not_measured_because": None}


def test_times_out_of_range_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--sustained: expected 30"):
        Subject(tmp_path, sustained_s=5)
    with pytest.raises(ConfigError, match="--seconds"):
        Subject(tmp_path, seconds=0)
    assert os.fspath(Subject(tmp_path, sustained_s=30).path) == str(tmp_path)
