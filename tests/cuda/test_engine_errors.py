"""What fails under the backend is named, ends a request or an opening at most, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pytest
from cuda.engines import ALL, FEW, assert_close, logits, one_token, opened, tokens
from cuda.test_decode import of_cpu

from edge_runtime.backends.cuda import blocks, slots, transfers
from edge_runtime.backends.cuda.cubins import cubin_name, load_kernels, write_cubin
from edge_runtime.backends.cuda.driver import CudaContextLostError, CudaError, CudaMemoryError, Device
from edge_runtime.backends.cuda.driver.library import FUNCTIONS
from edge_runtime.backends.cuda.sources import read_source
from edge_runtime.base.errors import BudgetError, ConfigError, DeviceError, ExpertReadError
from edge_runtime.engine.reload import Reload

pytestmark = pytest.mark.usefixtures("over_fake")
__all__ = ["of_cpu"]


@pytest.mark.parametrize(
    ("kind", "call", "code", "error", "match"),
    [
        ("device", b"cuMemcpyHtoDAsync_v2", 1, (ExpertReadError, CudaError), "cuMemcpyHtoDAsync_v2"),
        ("registered", b"cuLaunchKernel", 701, CudaError, "hb_.* grid .* registers or shared memory"),
        ("registered", b"cuMemcpyDtoHAsync_v2", 1, CudaError, "cuMemcpyDtoHAsync_v2"),
        ("registered", b"cuEventRecord", 2, CudaMemoryError, "Lower --memory"),
    ],
)
def test_the_next_request_is_right_after_one_failed(
    model_bundle, of_cpu, fake: ctypes.CDLL, kind: str, call: bytes, code: int, error, match: str
):
    before = fake.fake_live_regions()
    with opened(model_bundle, f"cuda:memory={kind}", FEW) as engine:
        fake.fake_fail(call, code, 5)
        with pytest.raises(error, match=match):
            logits(engine)
        assert_close(one_token(engine), of_cpu[0][-1:])
    assert fake.fake_live_regions() == before


def test_a_lost_context_says_that_the_process_must_be_started_again(model_bundle, fake: ctypes.CDLL):
    with opened(model_bundle, "cuda", FEW) as engine:
        fake.fake_fail(b"cuLaunchKernel", 700, 3)
        for _ in range(2):
            with pytest.raises(CudaContextLostError, match="restart"):
                logits(engine)


@pytest.mark.parametrize("after", range(3))
def test_memory_that_is_refused_at_the_start_leaves_nothing(model_bundle, of_cpu, fake: ctypes.CDLL, after: int):
    opened(model_bundle, "cuda", FEW).close()  # memory has been timed
    before = fake.fake_live_regions()
    fake.fake_fail(b"cuMemHostRegister_v2", 2, 1 + after)  # the first is the probe's
    with pytest.raises(BudgetError, match=r"expert arena: .* registered memory were refused: .*cuMemHostRegister"):
        opened(model_bundle, "cuda", ALL)
    assert fake.fake_live_regions() == before
    fake.fake_device_bytes(1 << 16)
    with pytest.raises(CudaMemoryError, match="device memory"):
        opened(model_bundle, "cuda", FEW)
    assert fake.fake_live_regions() == before
    fake.fake_device_bytes(1 << 40)
    with opened(model_bundle, "cuda", FEW) as engine:
        assert_close(one_token(engine), of_cpu[0][-1:])


def test_memory_the_drive_cannot_read_into_is_not_taken(model_bundle, of_cpu, no_reads_into_memory_of_drivers):
    with pytest.raises(DeviceError, match="pinned memory: the drive cannot read into it past the page cache"):
        opened(model_bundle, "cuda:memory=pinned", FEW)
    with opened(model_bundle, "cuda", FEW) as engine:
        memory = engine.parts.backend.memory
        assert_close(one_token(engine), of_cpu[0][-1:])
    assert (memory.kind, memory.staging) == ("device", "pageable")
    assert memory.why.startswith("registered memory: the drive cannot read into it")


class Landings:
    """Memory of the host that reads from the drive land in, as blocks of it are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[blocks.Block] = []
        for owner in (slots, transfers):
            monkeypatch.setattr(owner, "make_block", self._make)

    def _make(self, device: Device, kind: blocks.Kind | blocks.Staging, nbytes: int) -> blocks.Block:
        self._made.append(blocks.make_block(device, kind, nbytes))
        return self._made[-1]

    def protect(self, is_writable: bool) -> int:
        """Let nobody write there, neither the system for a read: it answers with EFAULT. Return how many blocks."""
        libc, found = ctypes.CDLL(None, use_errno=True), 0
        for block in self._made:
            if block.host is not None:
                pages = ctypes.c_void_p(block.host), ctypes.c_size_t(block.nbytes)
                assert libc.mprotect(*pages, mmap.PROT_READ | mmap.PROT_WRITE * is_writable) == 0, ctypes.get_errno()
                found += 1
        return found


@pytest.mark.parametrize("kind", blocks.KINDS)
def test_a_read_the_system_refuses_fails_its_request_alone(model_bundle, of_cpu, monkeypatch, kind: str):
    landings = Landings(monkeypatch)
    with opened(model_bundle, f"cuda:memory={kind}", FEW) as engine:
        assert landings.protect(is_writable=False)
        with pytest.raises(ExpertReadError, match=r"EFAULT, Bad address\. .* try cuda:memory=device"):
            logits(engine)
        landings.protect(is_writable=True)
        assert_close(logits(engine), of_cpu[0])
        assert tokens(engine) == of_cpu[1]
    # `landings` refers to the blocks still: the fake has none left all the same
    if kind == "pinned":
        with pytest.raises(DeviceError, match="the GPU was closed"):
            landings.protect(is_writable=True)


@pytest.mark.parametrize(
    ("version", "sm", "devices", "match"),
    [
        (11080, 87, 1, "JetPack 6 or newer"),
        (12060, 72, 1, "compute capability 7.2"),
        (12060, 87, 0, "there is no GPU 0"),
    ],
)
def test_a_machine_that_cannot_is_refused_by_name(
    model_bundle, fake: ctypes.CDLL, version: int, sm: int, devices: int, match: str
):
    fake.fake_device(version, sm, devices)
    with pytest.raises(DeviceError, match=match):
        opened(model_bundle, "cuda", FEW)
    fake.fake_device(12060, 87, 1)
    opened(model_bundle, "cuda", FEW).close()


def test_settings_that_are_not_there_are_named(model_bundle):
    for text, match in (
        ("cuda:memory=managed", r"memory: expected one of auto, registered, pinned, device, got 'managed'"),
        ("cuda:memry=device", r"unknown parameter 'memry'.* Did you mean 'memory'"),
        ("cpu:memory=device", r"unknown parameter 'memory'; it takes none"),
    ):
        with pytest.raises(ConfigError, match=match):
            opened(model_bundle, text, FEW)
    with pytest.raises(ConfigError, match=r"passes of 70000 tokens .* Lower --prefill-chunk"):
        opened(model_bundle, "cuda", FEW, prefill_chunk=70000)


def test_memory_and_policy_change_while_open(model_bundle, of_cpu, fake: ctypes.CDLL):
    fake.fake_mode(1, 7)
    with opened(model_bundle, "cuda", 60) as engine:
        slot_bytes = engine.parts.plan.slot_bytes
        for slots in (20, ALL, FEW):
            engine.resize(expert_memory=slots * slot_bytes)
            assert engine.parts.cache.nbytes <= slots * slot_bytes
            assert_close(one_token(engine), of_cpu[0][-1:])
        engine.reload(Reload(policy="hobbit"))
        one_token(engine)
        engine.reload(Reload(policy="lossless"))
        assert tokens(engine) == of_cpu[1]


def test_a_pass_that_was_given_up_leaves_nothing(model_bundle, of_cpu):
    with opened(model_bundle, "cuda:memory=device", FEW) as engine:
        layers, kv = iter(range(3)), engine.parts.trunk.new_kv_cache(32)

        def before_layer() -> None:
            if next(layers, None) is None:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            engine.parts.decoder.forward(np.arange(4, dtype=np.int32), kv, slice(0), before_layer)
        assert kv.length == 0
        assert_close(logits(engine), of_cpu[0])


NO_BINARY, NOT_FOUND = 209, 500


def test_a_wrong_cubin_is_named_and_the_engine_that_is_open_stays_usable(
    model_bundle, of_cpu, fake: ctypes.CDLL, kernel_folder: Path, caplog: pytest.LogCaptureFixture
):
    with opened(model_bundle, "cuda", FEW) as engine:
        fake.fake_fail_always(b"cuModuleLoadData", NO_BINARY)
        with pytest.raises(
            DeviceError, match=rf"cuModuleLoadData failed .*\({NO_BINARY}\) for kernels compiled for sm_87 just now"
        ):
            opened(model_bundle, "cuda", FEW)
        assert_close(logits(engine), of_cpu[0])
    fake.fake_recover()
    write_cubin(kernel_folder / cubin_name(read_source(), "sm_87"), b"\177ELFFAKEsm_90" + bytes(100000))
    with opened(model_bundle, "cuda", FEW) as engine:
        assert "the driver refuses" in caplog.text, "one that was kept is compiled again"
        assert_close(one_token(engine), of_cpu[0][-1:])


def test_a_missing_kernel_is_named_and_the_next_engine_is_right(model_bundle, of_cpu, fake: ctypes.CDLL):
    before = fake.fake_live_regions()
    for after in (0, 5):
        fake.fake_fail(b"cuModuleGetFunction", NOT_FOUND, after)
        said = rf"cuModuleGetFunction failed .*\({NOT_FOUND}\) for kernel hb_\w+"
        with pytest.raises(CudaError, match=said), opened(model_bundle, "cuda", FEW) as engine:
            logits(engine)
        fake.fake_recover()
        assert fake.fake_live_regions() == before
    with opened(model_bundle, "cuda", FEW) as engine:
        assert_close(one_token(engine), of_cpu[0][-1:])


def test_a_driver_without_a_function_is_named_and_the_open_engine_stays_usable(
    model_bundle, of_cpu, fake: ctypes.CDLL, monkeypatch
):
    with opened(model_bundle, "cuda", FEW) as engine:
        with monkeypatch.context() as older:
            older.setitem(FUNCTIONS, "cuGraphLaunchOfTomorrow", ())
            with pytest.raises(DeviceError, match="has no cuGraphLaunchOfTomorrow: it is older than CUDA 12.0"):
                opened(model_bundle, "cuda", FEW)
        assert_close(logits(engine), of_cpu[0])


def test_kernels_of_another_build_have_another_fingerprint(model_bundle, device, nvrtc, tmp_path: Path):
    with opened(model_bundle, "cuda", FEW) as engine:
        found = engine.parts.backend.fingerprint
        module = load_kernels(device, folder=tmp_path, compiler=lambda: nvrtc)
        assert found == f"cuda-sm_87-{module.digest[:16]}"
        module.close()
