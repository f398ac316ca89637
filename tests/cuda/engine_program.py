"""The demo over the fake driver with one fault planted in the host's code: LIBCUDA LIBNVRTC FOLDER BUNDLE FAULT.

Prints "right" or "wrong": whether the logits are the CPU backend's; or "damaged": a record had other bytes than its
checksum says. Any other error ends it. Run as a process of its own, since one fault ends it by a signal.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cuda.engines import ALL, FEW, TEXT, assert_close, opened

from edge_runtime import Engine, backends
from edge_runtime.backends.base import BackendOptions
from edge_runtime.backends.cuda import space, transfers
from edge_runtime.backends.cuda.backend import CudaBackend
from edge_runtime.backends.cuda.driver import Driver, Event
from edge_runtime.backends.cuda.experts import CudaExpertKernels
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.tensors import DeviceTensor
from edge_runtime.base.errors import ExpertReadError


def read_before_the_event() -> str:
    Event.synchronize = lambda self: None  # type: ignore[method-assign]
    return "registered"


def no_wait_for_the_copy() -> str:
    start = transfers.Staged.start

    def too_early(self: Any, landing: Any) -> Any:
        recorded = self._events.record(self._stream)
        recorded.event.synchronize()
        start(self, landing)
        return recorded

    transfers.Staged.start = too_early  # type: ignore[method-assign]
    return "device"


def staging_used_twice() -> str:
    def land(self: Any, slots: Any) -> Any:
        return transfers.StagedLanding(self._free[0], slots)

    def start(self: Any, landing: Any) -> None:
        """Nobody waits before the buffer is used again."""
        copy(self, landing)

    copy = transfers.Staged.start
    transfers.Staged.land, transfers.Staged.start = land, start  # type: ignore[method-assign, assignment]
    return "device"


def slots_read_into_too_early() -> str:
    def fence(self: Any) -> Any:
        return self._fences.record(self.other)

    made = space.CudaSpace.__init__

    def make(self: Any, compute: Any, copies: Any, *rest: Any) -> None:
        made(self, compute, copies, *rest)
        self.other = copies

    space.CudaSpace.__init__, space.CudaSpace.fence = make, fence  # type: ignore[method-assign]
    return "registered"


def touched_device_memory() -> str:
    combined = CudaExpertKernels.end

    def look(self: Any) -> DeviceTensor:
        tensor = combined(self)
        ctypes.string_at(tensor.address, 4)
        return tensor

    CudaExpertKernels.end = look  # type: ignore[method-assign]
    return "registered"


def none() -> str:
    return "device"


FAULTS: dict[str, tuple[Callable[[], str], str]] = {
    "the result is read before the event": (read_before_the_event, "wrong"),
    "kernels are given slots before their copy has run": (no_wait_for_the_copy, "wrong"),
    "staging is used again before the copy has run": (staging_used_twice, "damaged"),
    "a read lands in a slot that kernels still read": (slots_read_into_too_early, "wrong"),
    "the host touches device memory": (touched_device_memory, ""),
    "none": (none, "right"),
}
"""What plants each, and what the program prints then. Two reads in one buffer are seen before their copies are."""


def in_waves(engine: Engine) -> np.ndarray:
    """A prompt whose layers need more experts than there are slots."""
    return engine.logits(engine.tokenizer.encode(TEXT)[:10], chunk=10)


def outcome(bundle: Path, kind: str) -> str:
    with opened(bundle, "cpu", ALL) as engine:
        want = in_waves(engine)
    try:
        with opened(bundle, f"cuda:memory={kind}", FEW) as engine:
            found = in_waves(engine)
    except ExpertReadError as err:
        if "expected checksum" not in str(err):
            raise
        return "damaged"
    try:
        assert_close(found, want)
    except AssertionError:
        return "wrong"
    return "right"


def main(libcuda: str, libnvrtc: str, folder: str, bundle: str, fault: str) -> None:
    fake = ctypes.CDLL(libcuda)

    def make(options: BackendOptions) -> CudaBackend:
        return CudaBackend(
            options, lambda index: Gpu(Driver(fake), index, folder=Path(folder), compiler=lambda: Nvrtc(libnvrtc))
        )

    real = backends.BACKENDS["cuda"]
    backends.BACKENDS["cuda"] = backends.RegisteredBackend(make, "over the fake", params=real.params)
    plant, _ = FAULTS[fault]
    print(outcome(Path(bundle), plant()))


if __name__ == "__main__":
    main(*sys.argv[1:])
