"""TokenPass: a layer of one token in one native call, or what comes behind its decision, where nobody watches."""

from __future__ import annotations

from typing import Generic, TypeVar

from edge_runtime.backends.chunks import TrunkChunk
from edge_runtime.backends.token_compute import TokenCompute
from edge_runtime.base.arrays import I32
from edge_runtime.engine.pass_parts import PassParts
from edge_runtime.experts.token_layers import TokenLayers
from edge_runtime.policy.base import Changed, Decision, Routing
from edge_runtime.policy.joint import PassPolicies

T = TypeVar("T")


def token_pass_of(
    parts: PassParts[T], chunks: list[TrunkChunk], tokens: I32, policies: PassPolicies
) -> TokenPass[T] | None:
    """Return what runs the layers of a pass that has begun, drafts excluded; None: Python does.

    Everything is computed, counted, read and evicted as by `ForwardPass` over Python, in the same order. That loop is
    what this is held to, and what runs wherever one of the parts is another's, or somebody watches.

    Args:
        parts: what it runs on.
        chunks: of its sequences, as the trunk began them.
        tokens: int32 [N], of all.
        policies: decide for them.
    """
    if len(tokens) != 1 or parts.spans.is_recorded:
        return None
    compute = parts.compute.trunk.token_compute(parts.compute.kernels)
    layers = None if compute is None else parts.cache.token_layers(compute, parts.router, parts.spec)
    if compute is None or layers is None:
        return None
    ahead, depth = parts.read_ahead, parts.read_ahead.native_depth
    is_whole = (policies.follows_router or policies.native is not None) and depth is not None and layers.routes
    layers.begin_pass(
        compute.frame_of(chunks[0]), tokens, reads_ahead=ahead.is_reading, depth=depth or 0, decider=policies.native
    )
    return TokenPass(layers, compute, chunks[0], parts, is_whole=is_whole)


class TokenPass(Generic[T]):
    """The layers of one token.

    Args:
        layers: serve experts.
        compute: computes.
        chunk: the token's.
        parts: what it runs on.
        is_whole: layers run in one call; if not, they are served behind a decision.
    """

    def __init__(
        self,
        layers: TokenLayers[T],
        compute: TokenCompute[T],
        chunk: TrunkChunk,
        parts: PassParts[T],
        *,
        is_whole: bool,
    ) -> None:
        self._layers, self._out, self._chunk, self._parts = layers, compute.out, chunk, parts
        self.is_whole = is_whole
        self._first = parts.router.layers[0]

    def look_first(self) -> None:
        """Before any layer: start reads for the first one by what the token is."""
        self._parts.read_ahead.before_native(self._first, lambda reads: self._layers.look_first(reads=reads))

    def run(self, layer_idx: int, expert_out: T | None) -> T:
        """Run a layer with experts; return their output.

        Args:
            layer_idx: the layer.
            expert_out: what this gave for the layer before; None: nothing did.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        chunk = self._chunk
        chunk.require(layer_idx)
        chunk.next_layer = None  # a failed run leaves the chunk unusable
        self._layers.run(layer_idx, has_input=expert_out is not None)
        chunk.next_layer = layer_idx + 1
        if layer_idx == self._first:
            self._parts.read_ahead.saw(layer_idx, self._layers.chosen())
        return self._out

    def serve(self, layer_idx: int, routing: Routing, decision: Decision, seen: T) -> T:
        """Serve what was decided for a layer that ran up to its router; return the experts' output.

        Args:
            layer_idx: the layer.
            routing: what its router chose.
            decision: what was decided.
            seen: [1, D], what entered its router.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        ahead = self._parts.read_ahead

        def look(state: T | None) -> None:
            ahead.after(layer_idx, seen if state is None else state, routing, decision)

        self._layers.serve(
            layer_idx, decision, waits=ahead.is_wanted(decision), ahead=look if ahead.is_due(decision) else None,
            later=ahead.is_better_later(layer_idx),
        )  # fmt: skip
        return self._out

    def changed(self) -> Changed | None:
        """Return what decisions of `run` changed in the pass that is over; None: nothing."""
        return self._layers.changed() if self.is_whole else None

    def end(self) -> None:
        """The layers ran, or one failed: count their time."""
        trunk_ns, experts_ns = self._layers.end_pass()
        self._parts.spans.add("trunk", trunk_ns)
        self._parts.spans.add("experts", experts_ns)
