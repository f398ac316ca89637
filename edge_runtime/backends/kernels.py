"""What computes experts: kernels over slots, and a router where a backend has one. Parts of a backend."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from edge_runtime.base.arrays import F32, I32, U64

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Resident(NamedTuple):
    """Where the experts of a layer are. The same object in every pass until memory moves.

    Both arrays change in place between calls, when experts are read or evicted: look up the experts of a call before it
    returns, and keep nothing for the next. `ResidentRouter.run` gets objects in which nothing changes: what it copied
    to the device holds as long as it gets the same object.

    Attributes:
        tier: the tier all of them are served at.
        addresses: uint64 [S, 4], address of each segment of each slot.
        slots: int32 [E], slot of each expert of the layer.
    """

    tier: int
    addresses: U64
    slots: I32


class PartialSums(Protocol[T_co]):
    """Adds up the experts of a layer before all of them were computed."""

    def so_far(self) -> T_co:
        """Return the weighted sum over the experts that ran since `begin`, [N, D]. Valid until the next call."""
        ...


class ExpertKernels(Protocol[T]):
    """Computes experts for the tokens of one pass, a layer at a time.

    The order of calls for a layer is `begin`, `run_experts` until every expert decided for has run once, then `end`;
    or `run_resident` alone. A call may return before its work is done (see `MemorySpace.fence`). What it computes does
    not depend on how experts are batched, nor on the order they come in.
    """

    def begin(self, x: T, ids: I32, weights: F32) -> None:
        """Take the tokens and what was decided.

        Args:
            x: [N, D], what enters the experts; not changed before `end`.
            ids: int32 [N, K], experts; copied.
            weights: float32 [N, K]; an expert whose weight is exactly 0 is not computed. Copied.
        """
        ...

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """Compute some of the experts decided for.

        Args:
            tier: they are served at.
            segments: uint64 [n, 4], where their segments are; copied, the bytes there are not.
            experts: int32 [n].
        """
        ...

    @property
    def partial_sums(self) -> PartialSums[T] | None:
        """Says what `end` would return for the experts computed so far, where that costs no waiting."""
        ...

    def end(self) -> T:
        """Return the weighted sum over ranks, [N, D]. Valid until the next layer's `end` or `run_resident`."""
        ...

    def run_resident(self, x: T, ids: I32, weights: F32, resident: Resident) -> T:
        """All of that at once, for experts that are all in memory at one tier."""
        ...

    @property
    def resident_router(self) -> ResidentRouter[T] | None:
        """Routes and computes whole layers without the host, where the backend can."""
        ...

    def release_scratch(self) -> None:
        """Give what long passes left behind back to the system; it is taken again when next needed."""
        ...


class ResidentRouter(Protocol[T]):
    """Runs layers whose experts are all in memory without asking the host: for policies that follow the router."""

    def run(self, layer_idx: int, x: T, router_logits: T, resident: Resident) -> T:
        """Choose experts as the model's router does and compute them.

        Args:
            layer_idx: the layer.
            x: [N, D], what enters the experts.
            router_logits: [N, E].
            resident: where every expert of the layer is.

        Returns:
            As `ExpertKernels.end`.
        """
        ...

    def take_uses(self) -> list[tuple[int, I32]]:
        """Return (layer, experts used once or more, int32) of every `run` since the last call; waits for them."""
        ...
