"""ExpertCache: the experts of a running model. Joins table, memory, drive and eviction behind one stream per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

from edge_runtime.backends.kernels import Resident, T
from edge_runtime.backends.memory import MemorySpace
from edge_runtime.backends.token_compute import TokenCompute
from edge_runtime.base.arrays import I32, U8, Keys
from edge_runtime.base.spec import ModelSpec
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.pool import ExpertPool
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import DEFAULT_READ_TIMEOUT_S, ExpertKey, ExpertStore, Priority
from edge_runtime.experts.stream import LayerStream
from edge_runtime.experts.token_layers import TokenLayers
from edge_runtime.policy.routing import Router


class ExpertCache:
    """Serves experts layer by layer from a budget of memory. For one thread; implements `ResidencyView`.

    Args:
        residents: which experts are in memory, and which tiers there are; owned from now on.
        memory: their bytes; owned from now on.
        store: reads segments up to those of the full tier; owned from now on.
        read_timeout_s: longest wait for the next read to finish.
        overlaps: see `LayerStream`.
        clock: in nanoseconds, for the time spent waiting.
    """

    def __init__(
        self, residents: Residents, memory: ExpertMemory, store: ExpertStore, *,
        read_timeout_s: float = DEFAULT_READ_TIMEOUT_S, overlaps: bool = True,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:  # fmt: skip
        self._store, self._overlaps = store, overlaps
        self._new_stream = partial(LayerStream, read_timeout_s=read_timeout_s, overlaps=overlaps, clock=clock)
        self.pool = ExpertPool(residents, memory, store, read_timeout_s)
        """Residents, memory and reads."""
        self._stream: LayerStream | TokenLayers[Any] | None = None
        self._in_pass = self._is_closed = False

    @property
    def residents(self) -> Residents:
        """Which experts are in memory; replaced by `start_over`."""
        return self.pool.residents

    @property
    def space(self) -> MemorySpace:
        """The address space experts are computed from."""
        return self.pool.memory.space

    @property
    def nbytes(self) -> int:
        """Bytes the experts may take."""
        return self.pool.memory.nbytes

    @property
    def num_slots(self) -> int:
        """S, experts of the full tier that fit; what is borrowed on top is not counted."""
        return self.pool.residents.num_slots

    @property
    def fits_all(self) -> bool:
        """Whether every expert of the model has a slot and nothing is ever evicted; what is borrowed does not count."""
        return self.pool.residents.fits_all

    @property
    def num_reading(self) -> int:
        """Reads and transfers that are under way."""
        return self.pool.reader.num_in_flight

    @property
    def counters(self) -> ExpertCounters:
        """Totals since opening, as a copy that stands still."""
        return self.pool.counters()

    @property
    def store_mode(self) -> str:
        """How the drive is read: 'direct', 'buffered', or why it is not direct."""
        return self._store.mode

    @property
    def store_method(self) -> str:
        """What reads are made with: 'io_uring', or 'threads' with the reason."""
        return self._store.method

    def resident_tiers(self, layer_idx: int) -> U8:
        """Return uint8 [E], read-only: the tier each expert of the layer is resident at, 0 if it is not."""
        return self.pool.residents.table.resident_tiers(layer_idx)

    def touch(self, *, whole: bool = False, wait_s: float | None = 0.0) -> None:
        """Take the experts' memory from the system before reads need it, in the background. See `ExpertPool.touch`."""
        self.pool.touch(whole=whole, wait_s=wait_s)

    def watch_reads(self, watcher: Callable[[ExpertKey, int, int], None] | None) -> None:
        """Tell somebody of every read from now on, see `SlotReader`; None: nobody."""
        self.pool.reader.watcher = watcher

    def begin_request(self) -> None:
        """Clear what an abandoned request left, then check the bundle's files unless none is needed any more.

        What has to be in memory and is not is read: see `ExpertPool.begin_request`.

        Raises:
            ExpertReadError: a file is missing or changed, a read failed, or reads of an earlier request have not
                returned.
        """
        self.finish_reads()
        self.pool.begin_request()

    def finish_reads(self) -> None:
        """Cancel or await every read under way and unpin everything: then all that was read is counted.

        Raises:
            ExpertReadError: some reads have not returned.
        """
        self._close_stream()
        self.pool.finish_reads()
        self._in_pass = False

    def begin_sequence(self) -> None:
        """A new text begins: eviction forgets what belongs to the old one; residents stay."""
        self.pool.residents.begin_sequence()

    def begin_pass(self, num_tokens: int = 1) -> None:
        """A forward pass of so many tokens begins. Clears what a failed pass left."""
        if self._in_pass:
            self.pool.recover()
        self._in_pass = True
        self._close_stream()
        self.pool.residents.begin_pass(num_tokens)

    def end_pass(self) -> None:
        """All layers of the forward pass were given to kernels."""
        self._close_stream()
        self._in_pass = False

    def fail_pass(self) -> None:
        """A pass failed, its layers perhaps behind it: the next one clears what it left."""
        self._in_pass = True

    def stream(self, layer_idx: int, tiers: U8, order: Keys | None = None, topk_ids: I32 | None = None) -> LayerStream:
        """Serve the experts of one layer; reads of missing ones start before this returns.

        Args:
            layer_idx: a sparse layer.
            tiers: uint8 [E], the tier each expert needed is served at, however deep it is resident; 0: not needed.
            order: the experts needed in the order they count as used, the most recent last; None: by number.
            topk_ids: int32 [T, K], what each token uses, for eviction rules that want to know.

        Returns:
            Batches, each of one tier and valid until the next: all residents, then what has been read since, waiting
            for at least one. A read that failed raises ExpertReadError; by then all is released.
        """
        self._close_stream()
        self.pool.begin_layer(layer_idx, tiers)
        self._stream = stream = self._new_stream(self.pool.reader, layer_idx, tiers, order=order, topk_ids=topk_ids)
        return stream

    def take_resident(
        self, layer_idx: int, tiers: U8, order: Keys | None = None, topk_ids: I32 | None = None
    ) -> Resident | None:
        """Serve the experts of one layer if all of them are in memory at one tier; else None, and nothing happened.

        Nothing is pinned: they must be computed before anything is read. Where kernels run late, they are served like
        this only if every expert has a slot for good. Arguments as for `stream`.
        """
        pool, residents = self.pool, self.pool.residents
        if not residents.fits_all and pool.runs_late:
            return None  # without a pin, slots could be read into while kernels still compute from them
        if not (tier := residents.table.hit_all(layer_idx, tiers)):
            return None
        self._close_stream()
        if not residents.fits_all:
            pool.reader.cancel_stale(layer_idx, tiers)
        if residents.notes_uses:
            residents.table.note_use(layer_idx, tiers, order, topk_ids)
        return pool.places(tier)[layer_idx]

    def token_layers(self, compute: TokenCompute[T], router: Router, spec: ModelSpec) -> TokenLayers[T] | None:
        """Return what serves the layers of the pass that was begun in native code; None: `stream` does."""
        self._stream = found = self.pool.token_layers(compute, router, spec) if self._overlaps else None
        return found

    def prefetch(self, layer_idx: int, experts: Sequence[int], tiers: U8, priority: Priority = Priority.NEXT) -> int:
        """Start reading experts nobody asked for yet, as far as there is room, in this order; return how many."""
        self._collect_unasked()
        return self.pool.prefetch(layer_idx, experts, tiers, priority)

    def prefetch_predicted(self, layer_idx: int, ids: I32, tiers: U8) -> int:
        """Mask what a coming layer may use and start reading what is not there, as `DirectReads` does."""
        self._collect_unasked()
        return self.pool.reader.prefetch_predicted(layer_idx, ids, tiers)

    def mask(self, layer_idx: int, experts: list[int]) -> None:
        """Keep experts a coming layer is expected to need from eviction, as far as others may go instead."""
        self.pool.residents.table.mask(layer_idx, experts)

    def resize(self, num_slots: int) -> None:
        """Change S between requests. Shrinking truncates and evicts the least valuable and returns memory.

        Raises:
            BudgetError: the system refused the memory; S is what was reached, see `ExpertPool.change_budget`.
            ExpertReadError: reads of an earlier request have not returned.
        """
        self.finish_reads()
        self.pool.change_budget(num_slots)
        self.pool.residents.own_budget()

    def borrow(self, num_slots: int) -> None:
        """Let experts use so much memory beyond S, between passes; 0 takes it back. Raises what `resize` raises."""
        self.finish_reads()
        self.pool.change_budget(self.num_slots + num_slots)

    def start_over(self, residents: Residents) -> None:
        """Forget every expert and serve from others, none resident yet; totals go on. What was borrowed is given back.

        Args:
            residents: for the same model and store: another rule, lowest tier or budget.

        Raises:
            BudgetError: the system refused the memory; the former residents are forgotten, but go on.
            ExpertReadError: reads of an earlier request have not returned.
        """
        self.finish_reads()
        self.pool.start_over(residents)

    def close(self) -> None:
        """Stop reading, join the store's threads and return all memory. Safe to call twice."""
        if not self._is_closed:
            self._close_stream()
            self.pool.close()
        self._is_closed = True

    def _collect_unasked(self) -> None:
        if self._stream is None or self._stream.is_finished:  # an open stream must see its own reads finish
            self.pool.reader.collect(0.0)

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
