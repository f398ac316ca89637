"""The loop over the layers of a pass: route, decide, serve. The decoder and the simulator both run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from edge_runtime.policy.base import Decision, ResidencyView, Routing


class RoutingSource(Protocol):
    """Says what the router chose: the trunk as it runs, or a recording."""

    def route(self, layer_idx: int) -> Routing | None:
        """Run up to a layer's router and return its choice for the T tokens of the pass.

        Returns:
            None where the host has nothing to decide: a dense layer, or one that was routed and computed elsewhere.
        """
        ...


class ExpertServer(Protocol):
    """Brings the experts of a layer into memory, and computes them if anything is computed."""

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Serve what was decided for a layer, to the end."""
        ...


Decide = Callable[[int, Routing, ResidencyView], Decision]
"""Decides for the tokens of a layer, as `Policy.decide`: what runs, and at which tiers."""


def run_layers(
    layers: Iterable[int], source: RoutingSource, decide: Decide, residency: ResidencyView, server: ExpertServer
) -> list[Decision]:
    """Run layers in order and return what was decided, one decision for each layer the host decided for.

    Args:
        layers: numbers of the layers, ascending; a source that knows dense layers gets those as well.
        source: says what the router chose.
        decide: asks the policies.
        residency: what they may know of it.
        server: serves the experts.
    """
    decisions: list[Decision] = []
    for layer_idx in layers:
        routing = source.route(layer_idx)
        if routing is None:
            continue
        decision = decide(layer_idx, routing, residency)
        decisions.append(decision)
        server.serve(layer_idx, routing, decision)
    return decisions
