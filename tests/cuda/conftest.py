"""The fake driver and compiler, built once a run, and a GPU they make."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cuda.bench import Bench
from cuda.build import Fakes, build_fakes

from edge_runtime import backends
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.tensorrt.allow_list import version_for
from edge_runtime.backends.cuda.tensorrt.library import Library


@pytest.fixture(scope="session")
def fakes(shared_folder: Path) -> Fakes:
    with open(shared_folder / "cuda.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_fakes(shared_folder / "cuda")


@pytest.fixture(scope="session")
def _loaded(fakes: Fakes) -> ctypes.CDLL:
    return ctypes.CDLL(str(fakes.libcuda))


@pytest.fixture
def fake(_loaded: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """The fake driver's library, as late as it can be; what a test changed of it is undone.

    Nothing may be left on it in the end, whatever failed on the way and whoever still refers to it.
    """
    _loaded.fake_device_bytes.argtypes = [ctypes.c_size_t]
    _loaded.fake_board.argtypes = [ctypes.c_int, ctypes.c_size_t]
    _loaded.fake_mode.argtypes = [ctypes.c_int, ctypes.c_uint64]
    _loaded.shim_seed.argtypes = [ctypes.c_uint64]
    _loaded.shim_watch.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    _loaded.shim_reads.argtypes = [ctypes.c_uint32, ctypes.c_void_p]
    _loaded.fake_live_regions.restype = _loaded.fake_held_bytes.restype = ctypes.c_size_t
    _loaded.fake_live_said.restype = ctypes.c_char_p
    _reset(_loaded)
    yield _loaded
    left = _loaded.fake_live_said().decode()
    _reset(_loaded)
    _loaded.fake_forget()
    assert left == "", "left on the fake driver"


def _reset(fake: ctypes.CDLL) -> None:
    fake.fake_recover()
    fake.fake_mode(0, 1)
    fake.fake_device(12060, 87, 1)
    fake.fake_board(8, 8 << 30)
    fake.fake_device_bytes(1 << 40)
    fake.fake_integrated(1)
    fake.fake_rates(100, 100, 100, 50)
    fake.fake_stale(-1)
    fake.shim_unwatch()
    fake.shim_seed(1)


@pytest.fixture
def device(fake: ctypes.CDLL) -> Iterator[Device]:
    with Device(Driver(fake)) as device:
        yield device


@pytest.fixture
def nvrtc(fakes: Fakes) -> Nvrtc:
    return Nvrtc(str(fakes.libnvrtc))


@pytest.fixture
def bench(fake: ctypes.CDLL, device: Device, nvrtc: Nvrtc, tmp_path: Path) -> Iterator[Bench]:
    """Kernels on the fake GPU."""
    module = load_kernels(device, folder=tmp_path, compiler=lambda: nvrtc)
    with Bench(fake, device, module) as bench:
        yield bench


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def kernel_folder(_compiled: Path) -> Path:
    """Where engines over the fake driver keep compiled kernels, and nothing of what another test planted and measured."""
    for path in _compiled.glob("memory-*.json"):
        path.unlink()
    return _compiled


@pytest.fixture
def over_fake(fake: ctypes.CDLL, nvrtc: Nvrtc, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--backend cuda` is over the fake driver."""

    def make(options: BackendOptions) -> CudaBackend:
        return CudaBackend(
            options, lambda index: Gpu(Driver(fake), index, folder=kernel_folder, compiler=lambda: nvrtc)
        )

    real = backends.BACKENDS["cuda"]
    monkeypatch.setitem(
        backends.BACKENDS, "cuda", backends.RegisteredBackend(make, "over the fake", params=real.params)
    )


@pytest.fixture
def use_version(
    fake: ctypes.CDLL, nvrtc: Nvrtc, kernel_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Put a version of the fake TensorRT in place, with plans in a folder of the test."""
    from cuda import fake_tensorrt

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "driver", fake, raising=False)
    fake_tensorrt.Builder.configs.clear()
    real, used = backends.BACKENDS["cuda"], [fake_tensorrt.RELEASES[0]]

    def load() -> Library:
        found = version_for(used[0])
        assert found is not None
        return Library(fake_tensorrt.make_module(used[0]), found)

    def make(options: BackendOptions) -> CudaBackend:
        def open_gpu(index: int) -> Gpu:
            return Gpu(Driver(fake), index, folder=kernel_folder, compiler=lambda: nvrtc)

        return CudaBackend(options, open_gpu, load)

    monkeypatch.setitem(backends.BACKENDS, "cuda", backends.RegisteredBackend(make, "over fakes", params=real.params))
    yield lambda version: used.__setitem__(0, version)
    fake_tensorrt.Builder.configs.clear()


@pytest.fixture
def no_reads_into_memory_of_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses reads past the page cache into memory that a driver knows (EFAULT)."""

    def refuse(fd: int, into: list[object], *rest: int) -> int:
        if isinstance(into[0], ctypes.Array):
            raise OSError(errno.EFAULT, "Bad address")
        return preadv(fd, into, *rest)  # type: ignore[arg-type]

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", refuse)
