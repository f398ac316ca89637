"""Which compiler library is taken: one that compiles for the GPU and is not newer than the driver; what is said of others."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cuda.build import Fakes

from edge_runtime.backends.cuda import nvrtc
from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.backends.cuda.driver.errors import IMAGE_REFUSED
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.presence import why_missing
from edge_runtime.backends.cuda.sources import read_source
from edge_runtime.base.errors import DeviceError


def test_an_architecture_the_compiler_does_not_know_is_named(nvrtc: Nvrtc):
    assert nvrtc.version == (12, 6)
    with pytest.raises(DeviceError, match=r"NVRTC 12\.6 compiles for sm_80, sm_87, sm_90, not for sm_110"):
        nvrtc.compile(read_source(), "sm_110")


def test_another_library_compiles_for_what_the_first_one_does_not_know(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On a Thor that has both, as with NVIDIA's wheel for CUDA 12 beside JetPack's own library."""
    newer = shutil.copy(fakes.libnvrtc, tmp_path / "libnvrtc.so.13")
    ctypes.CDLL(str(newer)).fake_nvrtc(13, 2, 0)
    found = [str(fakes.libnvrtc), str(tmp_path / "gone.so"), str(newer)]
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter(found))
    compiler = Nvrtc()
    compiler.require("sm_87")
    assert compiler.version == (12, 6)
    image, _ = compiler.compile(read_source(), "sm_110")
    assert (compiler.version, image[:14]) == ((13, 2), b"\x7fELFFAKEsm_110")
    with pytest.raises(DeviceError, match=r"NVRTC 12\.6 compiles for .*, not for sm_120"):
        Nvrtc().require("sm_120")
    with pytest.raises(DeviceError, match=r"not for sm_110"):
        Nvrtc(str(fakes.libnvrtc)).require("sm_110")


@pytest.fixture
def install(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put libraries of these versions on the machine, in the order in which they are found."""

    def install(*versions: tuple[int, int]) -> None:
        paths = [tmp_path / f"libnvrtc.so.{a}.{b}" for a, b in versions]
        for path, version in zip(paths, versions, strict=True):
            if not path.exists():  # it is loaded then, and is not to be written over
                shutil.copy(fakes.libnvrtc, path)
            ctypes.CDLL(str(path)).fake_nvrtc(*version, 0)
        monkeypatch.setattr(nvrtc, "candidates", lambda: map(str, paths))

    return install


@pytest.mark.parametrize(
    ("found", "driver", "taken"),
    [
        ([(13, 2), (12, 6)], (12, 6), (12, 6)),  # JetPack 6.2 with a wheel for CUDA 13 and one for 12
        ([(13, 2), (12, 9)], (12, 6), (12, 9)),  # of its own major version at least
        ([(12, 9), (12, 6)], (12, 6), (12, 6)),
        ([(13, 2), (12, 6)], (13, 2), (13, 2)),
        ([(12, 6), (13, 2)], (13, 2), (12, 6)),  # an older one does: the first that is found
    ],
)
def test_a_library_that_is_not_newer_than_the_driver_is_taken(
    install: Callable[..., None], found: list[tuple[int, int]], driver: tuple[int, int], taken: tuple[int, int]
):
    install(*found)
    compiler = Nvrtc()
    compiler.require("sm_87", driver)
    assert compiler.version == taken
    assert compiler.compile(read_source(), "sm_87")[0].startswith(b"\x7fELFFAKEsm_87")
    assert compiler.version == taken, "it stays"


def test_a_library_of_a_later_major_version_is_refused_before_it_compiles(
    install: Callable[..., None], device: Device, fake: ctypes.CDLL, tmp_path: Path
):
    said = (
        r"NVRTC 13\.2 is newer than the driver, which supports CUDA 12\.6\. Install one that is not: sudo apt install "
        r"cuda-nvrtc-12-6, or pip install 'nvidia-cuda-nvrtc-cu12==12\.6\.85'\."
    )
    install((13, 2))
    with pytest.raises(DeviceError, match=said):
        load_kernels(device, folder=tmp_path / "kept")
    assert re.search(said, why_missing(lambda: Driver(fake), folder=tmp_path / "kept"))
    install((13, 2), (12, 6))
    assert why_missing(lambda: Driver(fake), folder=tmp_path / "kept") == ""
    load_kernels(device, folder=tmp_path / "kept").close()


@pytest.mark.parametrize("code", sorted(IMAGE_REFUSED))
def test_kernels_of_a_library_newer_than_the_driver_may_be_refused(
    install: Callable[..., None], fake: ctypes.CDLL, tmp_path: Path, code: int
):
    install((12, 9))
    fake.fake_device(12040, 87, 1)
    fake.fake_fail(b"cuModuleLoadData", code, 0)
    with Device(Driver(fake)) as device:
        with pytest.raises(
            DeviceError, match=rf"FAKE_ERROR_{code} \({code}\) for kernels compiled for sm_87"
        ) as refused:
            load_kernels(device, folder=tmp_path / "kept")
        said = (
            "NVRTC 12.9 is newer than the driver, which supports CUDA 12.4. Install one that is not: sudo apt install "
        )
        assert f"{said}cuda-nvrtc-12-4, or pip install 'nvidia-cuda-nvrtc-cu12<12.5'." in str(refused.value)
        assert "mpty the folder" not in str(refused.value), "nothing was kept"
        assert not (tmp_path / "kept").exists()
        load_kernels(device, folder=tmp_path / "kept").close()  # most of them load


def test_a_library_that_lacks_a_function_is_passed_over(fakes: Fakes, monkeypatch: pytest.MonkeyPatch):
    old = "libm.so.6"  # it loads, and has none of them
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter([old, str(fakes.libnvrtc)]))
    compiler = Nvrtc()
    compiler.require("sm_87")
    assert compiler.version == (12, 6)
    with pytest.raises(
        DeviceError, match=r"no NVRTC .*libm\.so\.6 has no nvrtcVersion: it is too old.*cuda-nvrtc-12-6"
    ):
        Nvrtc(old)


def test_a_missing_compiler_says_where_it_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeviceError, match=r"no NVRTC .*cuda-nvrtc-12-6.*pip install") as missing:
        Nvrtc(str(tmp_path / "libnvrtc.so"))
    thor = f"for Thor (sm_110), which needs NVRTC 13: pip install '{nvrtc.WHEELS[13, 2]}'"
    assert thor in str(missing.value)
    wheel = tmp_path / "nvidia" / "cuda_nvrtc" / "lib"
    wheel.mkdir(parents=True)
    (wheel / "libnvrtc.so.12").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(wheel / "libnvrtc.so.12") in list(nvrtc.candidates())
