"""TokenLayers: serves the experts of a token's layers in native code, from the residual stream or from a decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edge_runtime.backends.token_compute import TokenCompute
from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import ExpertReadError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.experts.direct_reads import DirectReads
from edge_runtime.experts.native import TokenLayer
from edge_runtime.experts.reader import SlotReader
from edge_runtime.experts.residents import Residents
from edge_runtime.policy.base import Changed, Decision, NativeDecider
from edge_runtime.policy.routing import Router

_READ_FAILED, _TIMED_OUT = 1, 2
T = TypeVar("T")


class TokenLayers(Generic[T]):
    """What `LayerStream` does for single tokens, and `Prefetcher` where native code knows what is decided.

    Attributes:
        is_finished: whether no layer is being served; see `LayerStream`, in whose place it stands meanwhile.

    Args:
        reader: reads; belongs to the residents.
        residents: which experts are in memory.
        compute: trunk and kernels.
        router: the model's.
        spec: the model.
        read_timeout_s: longest wait for the next read to finish.
    """

    def __init__(
        self, reader: DirectReads, residents: Residents, compute: TokenCompute[T], router: Router, spec: ModelSpec,
        read_timeout_s: float,
    ) -> None:  # fmt: skip
        table, self.is_finished = residents.table, True
        self.parts = (reader, compute, router)
        self._reader, self._residents, self._read_timeout_s = reader, residents, read_timeout_s
        has_shared = [layer.shared is not None for layer in spec.layers]
        self._native = TokenLayer(
            reader.native, table.forecast, router.native, compute.native, spec.top_k, residents.tier,
            spec.sparse_layers, has_shared, router.logit_bias, compute.out,
        )  # fmt: skip

    def begin_pass(
        self, frame: object, token: I32, *, reads_ahead: bool, depth: int, decider: NativeDecider | None
    ) -> None:
        """A pass begins.

        Args:
            frame: of the trunk's chunk.
            token: int32 [1].
            reads_ahead: experts may be read before a layer asks for them.
            depth: layers looked ahead; 0: nothing is predicted.
            decider: decides in `run`; None: layers use what their router chose.
        """
        residents, beside = self._residents, self._residents.table.without_ahead
        self._native.begin_pass(
            frame, token, reads_ahead, depth, not residents.fits_all, bool(residents.base_layers), residents.notes_uses,
            residents.table.uses, self._read_timeout_s, None if beside is None else beside.table, decider,
        )  # fmt: skip

    @property
    def routes(self) -> bool:
        """Whether `run` works in this pass: nobody in Python has to be told what a layer uses."""
        residents, table = self._residents, self._residents.table
        return table.forecast is not None and not table.skips_uses and not residents.base_layers

    def run(self, layer_idx: int, *, has_input: bool) -> None:
        """Run a layer.

        Args:
            layer_idx: with experts.
            has_input: the layer before gave something, which is where this one's output goes.

        Raises:
            ExpertReadError: a read failed or did not finish in time; everything was released.
        """
        if served := self._native.run(layer_idx, has_input):
            self._tell(layer_idx, served)

    def serve(
        self,
        layer_idx: int,
        decision: Decision,
        *,
        waits: bool,
        ahead: Callable[[T | None], None] | None,
        later: bool,
    ) -> None:
        """Serve what was decided for a layer whose dense part ran.

        Args:
            layer_idx: the layer.
            decision: for one token.
            waits: something may be read before this layer's experts were computed.
            ahead: starts reads for coming layers, by what may enter the next router, or by what entered this one's
                (None); None: there is nothing to start.
            later: it gains by the former.

        Raises:
            ExpertReadError: see `run`.
        """
        table = self._residents.table
        ids, weights, tiers, order = decision.topk_ids, decision.topk_weights, decision.tiers, decision.use_order
        self.is_finished = False
        try:
            served = self._native.serve(
                layer_idx, ids, weights, tiers, waits, table.native_rule,
                lambda: table.note_use(layer_idx, tiers, order, ids), ahead, later,
            )  # fmt: skip
        finally:
            self.is_finished = True
        if served:
            self._tell(layer_idx, served)

    def close(self) -> None:
        """Nothing is left open: a call releases everything."""

    def _tell(self, layer_idx: int, served: int) -> None:
        """Say what went wrong with reads."""
        failed, fatal, awaited = self._native.failed()
        errors = [self._reader.finished(one).error for one in failed]
        if served == _READ_FAILED:
            error = errors[fatal]
            assert error is not None
            raise error
        if served == _TIMED_OUT:
            raise ExpertReadError(
                f"layer {layer_idx}: expected one of {awaited} reads to finish within "
                f"{self._read_timeout_s:g} s, none did. Check the drive (dmesg)."
            )

    def look_first(self, *, reads: bool) -> list[int]:
        """Return what the first layer may use and lacks, by the token's embedding, before a layer ran.

        Args:
            reads: start reading it.
        """
        return self._native.look_first(reads)

    def chosen(self) -> list[int]:
        """Return the experts of the last layer, int [K]."""
        return self._native.chosen()

    def changed(self) -> Changed | None:
        """Return what decisions of `run` changed in the pass that is over; None: nothing."""
        substituted, skipped, route_changed, by_tier = self._native.changes()
        if not (substituted or skipped or route_changed):
            return None
        return Changed(substituted, skipped, route_changed, dict(by_tier))

    def end_pass(self) -> tuple[int, int]:
        """The pass is over; return what trunk and experts took, in nanoseconds."""
        trunk_ns, experts_ns, stall_ns = self._native.end_pass()
        self._residents.totals.stall_ns += stall_ns
        return trunk_ns, experts_ns


def token_layers_of(
    residents: Residents, reader: SlotReader, before: TokenLayers[Any] | None, compute: TokenCompute[T], router: Router,
    spec: ModelSpec, read_timeout_s: float,
) -> TokenLayers[T] | None:  # fmt: skip
    """Return what serves the layers of a pass in native code; None: a part of it has to be asked in Python.

    Args:
        residents: which experts are in memory.
        reader: reads; belongs to the residents.
        before: what it was last time, if there was any.
        compute: trunk and kernels.
        router: the model's.
        spec: the model.
        read_timeout_s: longest wait for the next read to finish.
    """
    if not isinstance(reader, DirectReads) or reader.watcher is not None:
        return None
    if before is not None and before.parts == (reader, compute, router):
        return before
    return TokenLayers(reader, residents, compute, router, spec, read_timeout_s)
