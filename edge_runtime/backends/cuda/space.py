"""The memory experts are computed from on a GPU. Implements `MemorySpace`."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.backends.cuda.blocks import Kind, Staging
from edge_runtime.backends.cuda.driver import Stream
from edge_runtime.backends.cuda.events import Events, Recorded
from edge_runtime.backends.cuda.slots import CudaSlots
from edge_runtime.backends.cuda.transfers import InSlots, Staged


class CudaSpace:
    """Slots in one kind of memory; kernels read them on one stream.

    Args:
        compute: the stream kernels run on.
        copies: the stream transfers run on; not used where reads land in the slots.
        kind: of memory.
        staging: what reads land in, where that is the GPU's own.
        record_bytes: of the largest read.
        reads: under way at once.

    Raises:
        DeviceError: there is no memory for staging buffers.
    """

    gives_back_pages = False
    runs_late = True

    def __init__(
        self, compute: Stream, copies: Stream, kind: Kind, staging: Staging, record_bytes: int, reads: int
    ) -> None:
        self._compute, self.kind = compute, kind
        self._fences = Events(compute.device)
        self.transfers: InSlots | Staged = InSlots()
        if kind == "device":
            self.transfers = Staged(copies, staging, record_bytes, reads)

    def make_slots(
        self, *, slot_bytes: int, num_slots: int, segment_offsets: Sequence[int], block_bytes: int
    ) -> CudaSlots:
        """See `MemorySpace.make_slots`."""
        return CudaSlots(
            self._compute,
            self.kind,
            slot_bytes=slot_bytes,
            num_slots=num_slots,
            segment_offsets=segment_offsets,
            block_bytes=block_bytes,
        )

    def fence(self) -> Recorded:
        """See `MemorySpace.fence`."""
        return self._fences.record(self._compute)

    def close(self) -> None:
        """Give staging buffers and events back. Safe to call twice."""
        self.transfers.close()
        self._fences.close()
