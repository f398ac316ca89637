"""Which experts would be in memory if none were read before a layer asks for it: for decisions. No bytes, no drive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import U8
from edge_runtime.experts.eviction import EvictionRule
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.units import UnitLedger


class WithoutReadAhead:
    """What policies that look at residency decide by where experts are read ahead. Implements `ResidencyView`.

    What the drive delivered in time, and whether reading ahead is on, then changes no decision: tokens are those of a
    run that reads nothing ahead. It goes through the requests of the table beside it, with the same memory and rule.
    The rule knows uses alone, so that one instance scores for both; only the table beside tells it of them.

    Args:
        beside: the table that is read ahead for; what it holds now counts as asked for.
        rule: that table's.
    """

    def __init__(self, beside: SlotTable, rule: EvictionRule) -> None:
        ledger = UnitLedger(beside.ledger.sizes, beside.ledger.budget_bytes, beside.ledger.max_experts)
        self._beside = beside
        self._runs: tuple[int, U8] | None = None  # the layer served last, and what it uses
        self._table = SlotTable(
            ledger, num_layers=beside.num_layers, num_experts=beside.num_experts, rule=rule,
            keeps_cores=beside.keeps_cores,
        )  # fmt: skip
        for layer_idx in range(beside.num_layers):
            tiers = beside.resident_tiers(layer_idx)
            self.admit(layer_idx, np.flatnonzero(tiers).tolist(), tiers)

    @property
    def table(self) -> SlotTable:
        """What native code takes through the requests by itself."""
        return self._table

    def resident_tiers(self, layer_idx: int) -> U8:
        """See `ResidencyView.resident_tiers`."""
        return self._table.resident_tiers(layer_idx)

    def follow_budget(self) -> None:
        """Between two passes: take as much memory as the table beside has."""
        budget_bytes = self._beside.ledger.budget_bytes
        if budget_bytes != self._table.ledger.budget_bytes:
            self._table.resize(budget_bytes)
            self._table.ledger.drain_discards()

    def recover(self) -> None:
        """Let go of what an interrupted pass had pinned or begun to take in."""
        self._table.reconcile(())
        self._table.ledger.drain_discards()

    def serve(self, layer_idx: int, tiers: U8) -> None:
        """A layer asks for experts uint8 [E], the tier each is served at; the rule was told of these uses."""
        self._runs = layer_idx, tiers
        self._table.serve_instantly(layer_idx, tiers)

    def admit(self, layer_idx: int, experts: Sequence[int], tiers: U8) -> None:
        """Experts are read although no layer asked for them, because a policy or somebody else wants them there.

        What the layer that runs uses does not go for them: beside, it is being computed.
        """
        held = self._table.resident_tiers(layer_idx)
        absent = [expert for expert in experts if held[expert] < tiers[expert]]
        if absent:
            pinned = [] if self._runs is None else self._table.find(*self._runs)[1]
            slots = self._table.claim(layer_idx, absent, tiers, prefetch=True)
            self._table.unpin(pinned)
            self._finish(slots)

    def _finish(self, slots: list[int]) -> None:
        for slot in slots:
            self._table.set_ready(slot)
        self._table.ledger.drain_discards()  # no memory was written, so none goes back
