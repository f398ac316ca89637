"""What a bring-up says of the machine: what can be read, and each place NVIDIA's libraries come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.lab.bringup import machine
from edge_runtime.lab.bringup.machine import describe_machine, jetson_linux, power_mode

ROOT = Path(__file__).parents[2]


def test_a_machine_is_described_by_what_can_be_read(tmp_path: Path):
    nowhere = [str(tmp_path / "none")]
    found = describe_machine(tmp_path, tmp_path, nowhere)
    assert (found["files"], found["libraries"]) == ({}, [])
    assert jetson_linux(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    libraries = tmp_path / "usr/lib/aarch64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in ("libnvinfer.so.10.3.0", "libother.so"):
        (libraries / name).touch()
    found = describe_machine(tmp_path, tmp_path, nowhere)
    assert found["files"] == {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3"}
    assert found["libraries"] == ["libnvinfer.so.10.3.0"]
    assert "hobbit-edge" in found["packages"]
    assert jetson_linux(tmp_path) == "36.4.3"


def test_a_machine_without_power_modes_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() is None
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NVPM ERROR: no power mode'\nexit 1\n")
    tool.chmod(0o755)
    assert power_mode() is None


def test_a_compiler_that_is_a_wheel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Where apt has none, the page offers NVIDIA's wheels: both layouts, and the packages it names."""
    for folder, name in (("cuda_nvrtc", "libnvrtc.so.12"), ("cu13", "libnvrtc.so.13")):
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True)
        (tmp_path / "nvidia" / folder / "lib" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert {"libnvrtc.so.12", "libnvrtc.so.13"} <= set(describe_machine(tmp_path, tmp_path / "root")["libraries"])
    page = (ROOT / "deploy/jetson-bringup.md").read_text()
    offered = set(re.findall(r"pip install (nvidia-[a-z0-9-]+)==", page))
    assert len(offered) == 2
    monkeypatch.setattr(machine, "version", lambda name: dict.fromkeys(offered, "12.6.85")[name])
    monkeypatch.setattr(machine, "PackageNotFoundError", KeyError)
    assert set(describe_machine(tmp_path, tmp_path / "root")["packages"]) == offered
