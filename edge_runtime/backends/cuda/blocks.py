"""Three kinds of memory for experts, a block at a time. Kernels read all of them.

- registered: ordinary pages of the process, made known to the GPU. Reads land in them.
- pinned: pages the driver allocates on the host. Reads land in them too, if the system can read past its cache there.
- device: the GPU's own. What a read brought is copied there.

Where host and GPU share one memory the first two are computed from in place: the bytes exist once.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Literal, Protocol

from edge_runtime.backends.cuda.driver import CudaError, Device, DeviceMemory, PinnedMemory, RegisteredMemory
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.huge_pages import huge_memory

HostKind = Literal["registered", "pinned"]
Kind = Literal["registered", "pinned", "device"]
HOST_KINDS: tuple[HostKind, ...] = ("registered", "pinned")
_PROBE_BYTES = mmap.PAGESIZE


class Block(Protocol):
    """An allocation; alive as long as anybody keeps it, so that a late read never writes into somebody else's bytes.

    Attributes:
        address: of the first byte, on the GPU.
        host: of the first byte, on the host; None where the host cannot touch it.
        nbytes: how many.
    """

    address: int
    host: int | None
    nbytes: int

    def close(self) -> None:
        """No kernel uses it from now on, once those that do have ended; waits for them. Safe to call twice."""
        ...


class RegisteredBlock:
    """Ordinary pages, registered. The pages go with the last reference; the registration with `close`."""

    def __init__(self, device: Device, nbytes: int) -> None:
        try:
            self._pages = huge_memory(nbytes)
        except OSError as err:
            raise DeviceError(f"cuda: the system refused {nbytes} bytes ({err.strerror}). Lower --memory.") from err
        self.host: int | None = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        self._registered = RegisteredMemory(device, self.host, nbytes)
        self.address, self.nbytes = self._registered.address, nbytes

    def close(self) -> None:
        """See `Block.close`."""
        self._registered.close()


class PinnedBlock:
    """Pages of the driver. All of it goes with the last reference."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device, self._pinned = device, PinnedMemory(device, nbytes)
        self.host: int | None = int(self._pinned.array.ctypes.data)
        self.address, self.nbytes = self._pinned.address, nbytes

    def close(self) -> None:
        """See `Block.close`: kernels are waited for when the memory goes."""

    def __del__(self) -> None:
        if hasattr(self, "_pinned"):
            self._pinned.close()


class DeviceBlock:
    """Memory of the GPU alone."""

    host: int | None = None

    def __init__(self, device: Device, nbytes: int) -> None:
        self._memory = DeviceMemory(device, nbytes)
        self.address, self.nbytes = self._memory.address, nbytes

    def close(self) -> None:
        """See `Block.close`."""
        self._memory.close()


_KINDS: dict[Kind, type[RegisteredBlock] | type[PinnedBlock] | type[DeviceBlock]] = {
    "registered": RegisteredBlock, "pinned": PinnedBlock, "device": DeviceBlock,
}  # fmt: skip


def make_block(device: Device, kind: Kind, nbytes: int) -> Block:
    """Allocate.

    Raises:
        CudaMemoryError: there is not as much left.
        DeviceError: the system or the driver refused for another reason.
    """
    return _KINDS[kind](device, nbytes)


def choose_kind(device: Device, asked: str) -> tuple[Kind, str]:
    """Say which kind of memory experts are kept in, and why.

    Args:
        device: the GPU.
        asked: a kind, or "auto".

    Raises:
        DeviceError: what was asked for cannot be had; says why.
    """
    if asked == "device":
        return "device", "asked for"
    for kind in HOST_KINDS:
        if asked == kind:
            if problem := why_not(device, kind):
                raise DeviceError(
                    f"cuda: experts in {kind} memory: {problem}. Use --backend cuda:memory=device, or auto."
                )
            return kind, "asked for"
    if not device.integrated:
        return "device", "the GPU has memory of its own"
    problem = why_not(device, "registered")
    if not problem:
        return "registered", "the GPU shares the system's memory"
    pinned = why_not(device, "pinned")
    if not pinned:
        return "pinned", f"registered memory: {problem}"
    return "device", f"registered memory: {problem}; pinned memory: {pinned}"


def why_not(device: Device, kind: HostKind) -> str:
    """Try a kind of memory on a page of it: allocate, and read from the drive past the page cache; "" if both work."""
    if kind == "registered" and not device.registers_host_memory:
        return "this GPU or driver cannot register memory of the system"
    try:
        block = make_block(device, kind, _PROBE_BYTES)
    except CudaError as err:
        return f"the driver refused it ({err.call}, code {err.code})"
    try:
        assert block.host is not None
        return "" if can_read_into(block.host, _PROBE_BYTES) else "the drive cannot read into it past the page cache"
    finally:
        block.close()


def can_read_into(host: int, nbytes: int) -> bool:
    """Whether a read past the page cache may land at an address: the kernel refuses some memory of drivers (EFAULT).

    A file system that has no such reads says nothing about the memory, and counts as yes.
    """
    try:
        fd = os.open(__file__, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return True
    try:
        os.preadv(fd, [(ctypes.c_ubyte * nbytes).from_address(host)], 0)
    except OSError as err:
        return err.errno != errno.EFAULT
    finally:
        os.close(fd)
    return True
