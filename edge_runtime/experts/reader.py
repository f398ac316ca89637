"""SlotReader: reads into claimed slots, from the claim until a slot is ready to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from edge_runtime.base.arrays import I32, U8
from edge_runtime.base.errors import DeviceError, ExpertReadError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.slot_read import Finished, SlotRead, wait_for
from edge_runtime.experts.slots_in_use import COMPUTE_TIMEOUT_S, SlotsInUse
from edge_runtime.experts.store.base import ExpertKey, ExpertStore, Priority, ReadTicket

_log = logging.getLogger(__name__)
_WAIT_S = 0.1


class SlotReader:
    """Joins table, memory and store; every read and transfer under way is known here.

    An exception, even an interrupt between any two steps, may leave notes behind that are not true. They are corrected
    from the facts, which tickets and transfers are done: by `abort`, and by `start` if it fails.

    Args:
        residents: who is in which slot, and where reads are counted.
        memory: the slots' memory.
        store: reads segments of experts.
    """

    def __init__(self, residents: Residents, memory: ExpertMemory, store: ExpertStore) -> None:
        self.table, self.totals, self.memory, self._store = residents.table, residents.totals, memory, store
        self._transfers = memory.space.transfers
        self._reads: dict[int, SlotRead] = {}  # by slot, of all that it lacks
        self._landed: list[int] = []  # slots with a transfer under way, in the order they were started
        self.in_use = SlotsInUse(self.table, memory.space)
        self.runs_late = memory.space.runs_late
        self.release: Callable[[list[int]], None] = self.in_use.release if self.runs_late else self.table.unpin
        """Unpins slots whose experts were handed out, once no kernel reads them any more."""
        self._ahead: list[int] = []  # slots read for a layer that was to come next
        self.watcher: Callable[[ExpertKey, int, int], None] | None = None
        """Told of every read that is over: the expert, when it was asked for, how long it took, in nanoseconds."""

    @property
    def num_in_flight(self) -> int:
        """Slots with a read or a transfer under way."""
        return len(self._reads)

    def start(self, layer_idx: int, experts: Sequence[int], tiers: U8, priority: Priority) -> list[int]:
        """Claim room for the first of `experts`, as many as fit, and start reading; return their slots.

        Args:
            layer_idx: their layer.
            experts: absent, or resident below the tier wanted.
            tiers: uint8 [E], the tier wanted.
            priority: of the reads.
        """
        room = self._transfers.room
        if room is not None:
            experts = experts[:room]
        try:
            slots = self._claim(layer_idx, experts, tiers, priority)
            self.memory.discard_listed()
            if priority is Priority.NEXT:
                self._ahead.extend(slots)
            for slot, expert in zip(slots, experts, strict=False):
                self._read(slot, ExpertKey(layer_idx, int(expert)), priority)
        except BaseException:
            self._reconcile()
            raise
        return slots

    def prefetch_predicted(self, layer_idx: int, ids: I32, tiers: U8) -> int:
        """Mask what a coming layer may use, and start reading what is not there. See `ExpertCache`."""
        lacking, absent = self.table.mask_predicted(layer_idx, ids, tiers)
        if absent:
            self.start(layer_idx, absent, tiers, Priority.NEXT)
        return lacking

    def memory_moved(self) -> None:
        """The slots' memory moves, while nothing is under way; or somebody begins to take it from the system."""

    def count_into(self, counters: ExpertCounters) -> None:
        """Add reads that are not counted in `totals` themselves."""

    def _claim(self, layer_idx: int, experts: Sequence[int], tiers: U8, priority: Priority) -> list[int]:
        if not experts:
            return []
        prefetch = priority is not Priority.NOW
        if self.in_use:
            self.in_use.reclaim()
        slots = self.table.claim(layer_idx, experts, tiers, prefetch=prefetch)
        while not slots and self.in_use and not prefetch and not self._reads:
            self.in_use.reclaim(COMPUTE_TIMEOUT_S)  # nothing else will make room
            slots = self.table.claim(layer_idx, experts, tiers)
        if not prefetch:
            self.in_use.hold(slots)
        return slots

    def cancel_stale(self, layer_idx: int, tiers: U8) -> None:
        """Read no further for experts of a layer that were read ahead in vain, as far as they are not there yet.

        Args:
            layer_idx: the layer, whose choice is known now.
            tiers: uint8 [E], the tier each expert is needed at; 0: not needed.
        """
        kept: list[int] = []
        for slot in self._ahead:
            read = self._reads.get(slot)
            if read is None or read.ticket is None or read.transfer is not None:
                continue
            if read.key.layer_idx != layer_idx:
                kept.append(slot)
            elif not tiers[read.key.expert_idx] and self._store.cancel(read.ticket):
                self._transfers.release(read.landing)
                del self._reads[slot]
                self.table.drop(slot)
        self._ahead = kept

    def promote(self, slot: int) -> None:
        """Someone waits for this slot now."""
        read = self._reads[slot]
        if read.ticket is not None and read.transfer is None:
            self._store.promote(read.ticket, Priority.NOW)

    def collect(self, timeout_s: float) -> list[Finished]:
        """Return slots that became ready, or failed, waiting up to `timeout_s` for the first; [] if none did."""
        deadline = monotonic() + timeout_s
        while True:
            had_transfers = bool(self._landed)
            tickets = self._store.completed(0.0 if had_transfers else timeout_s)
            finished = [done for ticket in tickets if (done := self._take_landed(ticket)) is not None]
            if self._landed:
                finished += self._take_transferred(0.0 if finished else timeout_s)
            timeout_s = max(deadline - monotonic(), 0.0) if timeout_s else 0.0
            if finished or not self._reads or not (tickets or (had_transfers and timeout_s)):
                return finished

    def abort(self, timeout_s: float) -> None:
        """Cancel queued reads and wait for the others; those that do not return in time keep their slot.

        Afterwards nothing is pinned, and table, ledger, reads and transfers agree, whatever happened before.
        """
        for ticket in self._store.outstanding():
            self._store.cancel(ticket)
        deadline = monotonic() + timeout_s
        while self._store.outstanding() and (left := deadline - monotonic()) > 0:
            self._store.completed(min(left, _WAIT_S))
        self._store.completed(0.0)
        self._reconcile()
        if self._landed:
            for slot in self._landed:
                transfer = self._reads[slot].transfer
                assert transfer is not None
                wait_for(transfer, max(deadline - monotonic(), 0.0))
            self._reconcile()

    def _reconcile(self) -> None:
        """Complete what is over, keep what is under way, and free everything else that was claimed."""
        live = {ticket.tag: ticket for ticket in self._store.outstanding()}
        kept: dict[int, SlotRead] = {}
        for slot, read in self._reads.items():
            if slot in live:
                read.ticket = live[slot]
                kept[slot] = read
            elif self.table.is_reading(slot) and self._is_under_way(slot, read):
                kept[slot] = read
        self._reads, self._ahead = kept, []
        self._landed = [slot for slot, read in kept.items() if read.transfer is not None]
        self.in_use.give_up()  # also of slots that were handed out and not released
        self.table.reconcile([*self._reads])
        self._transfers.keep([read.landing for read in self._reads.values()])
        self.memory.discard_listed()

    def _is_under_way(self, slot: int, read: SlotRead) -> bool:
        """Take a slot whose read is over as far as it goes without waiting; whether a transfer is under way."""
        if not read.landed:
            return False
        try:
            if read.transfer is None:
                read.count(self.totals)
                read.transfer = self._transfers.start(read.landing)
            if read.transfer is not None and not read.transfer.is_done():
                return True
            self.table.set_ready(slot)
        except DeviceError as err:
            _log.warning("expert not transferred: %s", err)
        return False

    def _read(self, slot: int, key: ExpertKey, priority: Priority) -> None:
        """Submit what the slot lacks as one read: everything, or only the planes beyond those it is resident with."""
        resident, planes = self.table.resident_planes(slot), self.table.planes_of(slot)
        segments = self.table.ledger.sizes.core_segments
        landing = self._transfers.land(self.memory.lacking(slot, resident, planes))
        read = self._reads[slot] = SlotRead(key, landing)
        span = segments + resident if resident >= 0 else 0, segments + len(planes)
        read.ticket = self._store.submit(key, landing.targets, segments=span, priority=priority, tag=slot)

    def _take_landed(self, ticket: ReadTicket) -> Finished | None:
        """A read is over: complete its slot, or start its transfer. One given up long ago is passed over."""
        slot = ticket.tag
        read = self._reads.get(slot)
        if read is None or read.ticket is not ticket:
            return None
        read.count(self.totals)
        if self.watcher is not None:
            self.watcher(read.key, read.started_ns, ticket.elapsed_ns)
        if ticket.error is not None:
            return self._complete(slot, read, ticket.error)
        try:
            read.transfer = self._transfers.start(read.landing)
        except DeviceError as err:
            return self._complete(slot, read, read.failed_transfer(err))
        if read.transfer is None:
            return self._complete(slot, read, None)
        self._landed.append(slot)
        return None

    def _take_transferred(self, timeout_s: float) -> list[Finished]:
        """Complete the slots whose transfers are over, waiting for the oldest."""
        finished: list[Finished] = []
        for number, slot in enumerate([*self._landed]):
            read = self._reads[slot]
            assert read.transfer is not None
            try:
                if not (read.transfer.wait(timeout_s) if number == 0 and timeout_s else read.transfer.is_done()):
                    continue
                error = None
            except DeviceError as err:
                error = read.failed_transfer(err)
            self._landed.remove(slot)
            finished.append(self._complete(slot, read, error))
        return finished

    def _complete(self, slot: int, read: SlotRead, error: ExpertReadError | None) -> Finished:
        """Nothing more happens to a slot: it is ready, or on error lacks again what it lacked."""
        del self._reads[slot]
        self._transfers.release(read.landing)
        if error is None:
            self.table.set_ready(slot)
        else:
            self.table.drop(slot)
        return Finished(slot, read.key, error)
