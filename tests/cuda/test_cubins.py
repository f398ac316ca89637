"""Compiling kernels at first use, and keeping them."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import pytest
from cuda.build import Fakes

from edge_runtime.backends.cuda import cubins, sources
from edge_runtime.backends.cuda.cubins import cache_folder, cubin_name, load_kernels, read_cubin, write_cubin
from edge_runtime.backends.cuda.driver import CudaError, Device, Driver
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.sources import KernelSource, read_source
from edge_runtime.base.errors import DeviceError


class Compilers:
    """Hands out compilers and counts them."""

    def __init__(self, fakes: Fakes) -> None:
        self._path, self.made = str(fakes.libnvrtc), 0

    def __call__(self) -> Nvrtc:
        self.made += 1
        return Nvrtc(self._path)


@pytest.fixture
def compilers(fakes: Fakes) -> Compilers:
    return Compilers(fakes)


@pytest.fixture
def library(fakes: Fakes):
    """The fake compiler's own switches."""
    found = ctypes.CDLL(str(fakes.libnvrtc))
    yield found
    found.fake_nvrtc(12, 6, 0)


def no_compiler() -> Nvrtc:
    raise AssertionError("nothing was to be compiled")


def test_kernels_are_compiled_once_and_then_taken_from_the_folder(device: Device, compilers: Compilers, tmp_path: Path):
    load_kernels(device, folder=tmp_path, compiler=compilers).kernel("hb_gate_up_4")
    load_kernels(device, folder=tmp_path, compiler=no_compiler).kernel("hb_route")
    assert compilers.made == 1
    assert [path.name for path in tmp_path.iterdir()] == [cubin_name(read_source(), "sm_87")]


def test_another_source_or_gpu_has_a_file_of_its_own(
    device: Device, fake: ctypes.CDLL, compilers: Compilers, tmp_path: Path
):
    source = read_source()
    load_kernels(device, folder=tmp_path, compiler=compilers)
    changed = KernelSource(source.main, {**source.headers, "codes.cuh": source.headers["codes.cuh"] + "\n"})
    load_kernels(device, folder=tmp_path, source=changed, compiler=compilers)
    fake.fake_device(12060, 90, 1)
    with Device(Driver(fake)) as other:
        load_kernels(other, folder=tmp_path, compiler=compilers)
    assert compilers.made == len(list(tmp_path.iterdir())) == 3
    assert len({cubin_name(source, arch) for arch in ("sm_87", "sm_90")}) == 2


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:40] + b"x" + raw[41:], lambda raw: b""])
def test_a_damaged_file_is_made_again(
    device: Device, compilers: Compilers, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage
):
    load_kernels(device, folder=tmp_path, compiler=compilers)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    load_kernels(device, folder=tmp_path, compiler=compilers)
    assert compilers.made == 2
    assert path.read_bytes() == whole
    assert "is damaged" in caplog.text


def test_what_the_driver_refuses_is_compiled_again(
    device: Device, fake: ctypes.CDLL, compilers: Compilers, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / cubin_name(read_source(), device.arch)
    write_cubin(path, b"\177ELFFAKEsm_90" + bytes(100000))  # for another GPU
    load_kernels(device, folder=tmp_path, compiler=compilers)
    assert "the driver refuses" in caplog.text
    assert (read_cubin(path) or b"")[8:13] == b"sm_87"
    fake.fake_fail(b"cuModuleLoadData", 2, 0)  # out of memory is no reason to compile
    with pytest.raises(CudaError, match=r"cuModuleLoadData failed .*\(2\) for kernels compiled for sm_87"):
        load_kernels(device, folder=tmp_path, compiler=no_compiler)
    fake.fake_fail(b"cuModuleLoadData", 222, 1)
    path.unlink()
    load_kernels(device, folder=tmp_path, compiler=compilers)
    with pytest.raises(DeviceError, match=r"\(222\).*NVRTC 12\.6 is not newer than the driver, of CUDA 12\.6: report"):
        load_kernels(device, folder=tmp_path / "other", compiler=compilers)


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    device: Device, compilers: Compilers, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        load_kernels(device, folder=tmp_path / "file" / "folder", compiler=compilers).kernel("hb_down_2")
    assert "cannot be kept" in caplog.text


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cubins.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_cubin(tmp_path / "k.cubin", b"image")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_compiler_show_what_it_said(
    device: Device, compilers: Compilers, tmp_path: Path, library: ctypes.CDLL
):
    source = read_source()
    without = KernelSource(source.main, {k: v for k, v in source.headers.items() if k != "codes.cuh"})
    with pytest.raises(
        DeviceError, match=r'nvrtcCompileProgram failed .*\(6\).*\n.*cannot open source file "codes.cuh"'
    ):
        load_kernels(device, folder=tmp_path, source=without, compiler=compilers)
    library.fake_nvrtc(12, 6, 1)
    with pytest.raises(DeviceError, match=r"hobbit\.cu\(1\): error: planted"):
        load_kernels(device, folder=tmp_path, compiler=compilers)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/hobbit-edge/kernels"
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/systemd:/other")
    assert cache_folder() == tmp_path / "systemd/hobbit-edge/kernels"
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/hobbit-edge/kernels"


def test_the_source_is_complete():
    source = read_source()
    included = {
        line.split('"')[1]
        for text in (source.main, *source.headers.values())
        for line in text.splitlines()
        if line.startswith("#include")
    }
    assert included - {"cuda_on_host.hpp"} <= source.headers.keys()
    assert sources.FOLDER.joinpath(sources.MAIN).is_file()
