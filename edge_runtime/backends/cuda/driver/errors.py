"""Errors of the driver: which call, which code, and what usually helps."""

from __future__ import annotations

from edge_runtime.base.errors import DeviceError

OUT_OF_MEMORY = 2
NOT_READY = 600
IMAGE_REFUSED = frozenset({200, 209, 218, 222})
"""Codes of a driver that cannot load a compiled kernel. Whoever loads it knows what helps: cubins.py."""
CONTEXT_LOST = frozenset({700, 702, 710, 714, 715, 716, 717, 718, 719})
"""Codes after which every further call of the process fails."""

_FAULT = "A kernel failed, and nothing more can run in this process: restart it, and report the message."
ADVICE: dict[int, str] = dict.fromkeys(CONTEXT_LOST, _FAULT) | {
    1: "This is a fault of the runtime: report the message.",
    OUT_OF_MEMORY: "Lower --memory or --context, or stop what else uses the GPU.",
    3: "This is a fault of the runtime: report the message.",
    34: "libcuda.so.1 is the stub of a toolkit, not a driver: take it out of the library path.",
    46: "Another program uses the GPU exclusively: stop it.",
    100: "There is no GPU, or this process may not see it. Start a container with --runtime nvidia; check that the "
    "user may open /dev/nvidia* or, on a Jetson, /dev/nvgpu and /dev/nvmap (group video).",
    101: "There is no GPU of this number.",
    500: "The compiled kernels are of another version: empty their folder, and they are compiled again.",
    701: "A kernel asked for more registers or shared memory than this GPU has: report the message.",
    702: "A kernel ran too long: restart the process. A display on this GPU limits kernels to some seconds.",
    712: "This memory is registered already: a fault of the runtime, report the message.",
    801: "This GPU or driver does not support the call.",
    802: "The driver is still starting: try again.",
    803: "The library and the kernel module of the driver are of different versions: restart the machine.",
    804: "The compatibility package in the library path does not fit this driver: remove it.",
    999: "See the kernel's log (dmesg): it often names the cause.",
}


class CudaError(DeviceError):
    """A call of the driver failed.

    Attributes:
        call: name of the call.
        code: what it returned.
    """

    def __init__(self, call: str, code: int, name: str, detail: str = "") -> None:
        advice = ADVICE.get(code, "")
        super().__init__(f"cuda: {call} failed with {name} ({code}){detail}. {advice}".rstrip())
        self.call, self.code = call, code


class CudaMemoryError(CudaError):
    """The driver has no such memory left. Everything else goes on."""


class CudaContextLostError(CudaError):
    """A kernel failed in a way that ends all use of the GPU by this process."""


def make_error(call: str, code: int, name: str, detail: str = "") -> CudaError:
    """Return the error of a failed call.

    Args:
        call: name of the call.
        code: what it returned.
        name: the driver's name of the code.
        detail: what was asked for, as " of 3 MiB".
    """
    if code == OUT_OF_MEMORY:
        return CudaMemoryError(call, code, name, detail)
    if code in CONTEXT_LOST:
        return CudaContextLostError(call, code, name, detail)
    return CudaError(call, code, name, detail)
