"""A chunk on its way through a trunk: what layers hand to experts, and what else can be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class LayerOutput(Generic[T]):
    """What a layer with experts hands to them. Valid until the next `run_layer` of the same chunk, or its `commit`.

    Attributes:
        x: [N, D], normed hidden state that feeds router and experts.
        router_logits: [N, E].
        router_x: [N, D], what feeds the router where that is not x: its own norm of the residual stream.
    """

    x: T
    router_logits: T
    router_x: T | None = None

    @property
    def seen(self) -> T:
        """What feeds the router, and what `Trunk.look_ahead` takes."""
        return self.x if self.router_x is None else self.router_x


class TrunkChunk:
    """A chunk of one sequence in progress, as `Trunk.begin` returns it. Only its trunk looks inside.

    Args:
        tokens: N.

    Attributes:
        next_layer: the layer that may run next; None once the chunk was committed, failed, or lost its place.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.next_layer: int | None = 0

    def require(self, next_layer: int) -> None:
        """Check the order of calls."""
        assert self.next_layer is not None, "the chunk was committed, failed, or another one took its place"
        assert self.next_layer == next_layer, f"layer {next_layer} is out of order, expected {self.next_layer}"


class ExpectedStates(Protocol[T]):
    """Says what will enter the next router from what is known before all experts of a layer have been computed."""

    def expected_state(self, chunk: TrunkChunk, layer_idx: int, expert_out: T) -> T:
        """Return what would enter the router of the next sparse layer if nothing else came between.

        Args:
            chunk: whose last `run_layer` was `layer_idx`, and `run_shared` where the layer has a shared expert.
            layer_idx: a sparse layer with another one behind it.
            expert_out: [N, D], output of the experts computed so far, shared ones included.

        Returns:
            [N, D]. Valid until the next call.
        """
        ...

    def first_state(self, chunk: TrunkChunk) -> T:
        """Return what would enter the first sparse layer's router if nothing came between it and the embedding.

        Of a chunk no layer of which has run: [N, D], valid until the next call.
        """
        ...


class ChunkCuts(Protocol[T]):
    """Drops the last tokens of a chunk on its way, where a token has the same bits in every chunk it may be in."""

    def keep(self, chunk: TrunkChunk, tokens: int) -> LayerOutput[T]:
        """Go on with the first tokens of a chunk; the others are not committed.

        Args:
            chunk: whose last call was `run_layer` of a layer with experts; no layer of the model has a recurrent state.
            tokens: how many stay, at least 1.

        Returns:
            What `run_layer` gave, of these.
        """
        ...
