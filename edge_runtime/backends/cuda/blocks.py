"""Three kinds of memory for experts, a block at a time. Kernels read all of them. And one that is only copied from.

- registered: ordinary pages of the process, made known to the GPU. Reads land in them.
- pinned: pages the driver allocates on the host. Reads land in them too, if the system can read past its cache there.
- device: the GPU's own. What a read brought is copied there.
- pageable: ordinary pages the driver knows nothing of, where reads land on their way to the GPU's own memory if they
  can land in neither of the host's kinds. The driver copies them once more.

Where host and GPU share one memory the first two are computed from in place: the bytes exist once.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Literal, Protocol

from edge_runtime.backends.cuda.driver import Device, DeviceMemory, PinnedMemory, RegisteredMemory
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.huge_pages import huge_memory

HostKind = Literal["registered", "pinned"]
Kind = Literal["registered", "pinned", "device"]
Staging = Literal["registered", "pinned", "pageable"]
KINDS: tuple[Kind, ...] = ("registered", "pinned", "device")
HOST_KINDS: tuple[HostKind, ...] = ("registered", "pinned")


class NoPagesError(DeviceError):
    """The system has no such memory left."""


class Block(Protocol):
    """An allocation. What reads land in lives as long as anybody keeps it, and its GPU is open.

    So a late read never writes into somebody else's bytes; before the GPU is closed, reads are over.

    Attributes:
        address: of the first byte, on the GPU.
        nbytes: how many.
    """

    address: int
    nbytes: int

    @property
    def host(self) -> int | None:
        """Address of the first byte on the host; None where the host cannot touch it."""
        ...

    def close(self) -> None:
        """No kernel uses it from now on, once those that do have ended; waits for them. Safe to call twice."""
        ...


class RegisteredBlock:
    """Ordinary pages, registered. The pages go with the last reference; the registration with `close`."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._pages, host = _pages(nbytes)
        self.host: int | None = host
        self._registered = RegisteredMemory(device, host, nbytes)
        self.address, self.nbytes = self._registered.address, nbytes

    def close(self) -> None:
        """See `Block.close`."""
        self._registered.close()


class PageableBlock:
    """Ordinary pages the GPU has no address of: copies alone come from there. They go with the last reference."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._pages, host = _pages(nbytes)
        self.host: int | None = host
        self.address, self.nbytes = 0, nbytes

    def close(self) -> None:
        """See `Block.close`: a copy from here has read them when it was queued."""


def _pages(nbytes: int) -> tuple[mmap.mmap, int]:
    """Return ordinary pages and their address."""
    try:
        pages = huge_memory(nbytes)
    except OSError as err:
        raise NoPagesError(f"cuda: the system refused {nbytes} bytes ({err.strerror}). Lower --memory.") from err
    return pages, ctypes.addressof(ctypes.c_char.from_buffer(pages))


class PinnedBlock:
    """Pages of the driver. All of it goes with the last reference, or with the GPU."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._pinned = PinnedMemory(device, nbytes)
        self.address, self.nbytes = self._pinned.address, nbytes

    @property
    def host(self) -> int | None:
        """See `Block.host`.

        Raises:
            DeviceError: the GPU was closed.
        """
        return int(self._pinned.array.ctypes.data)

    def keep(self) -> None:
        """See `KeepsBytes.keep`."""
        self._pinned.keep()

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


_MAKERS: dict[str, Callable[[Device, int], Block]] = {
    "registered": RegisteredBlock, "pinned": PinnedBlock, "device": DeviceBlock, "pageable": PageableBlock,
}  # fmt: skip


def make_block(device: Device, kind: Kind | Staging, nbytes: int) -> Block:
    """Allocate.

    Raises:
        CudaMemoryError: there is not as much left.
        DeviceError: the system or the driver refused for another reason.
    """
    return _MAKERS[kind](device, nbytes)
