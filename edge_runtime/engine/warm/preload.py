"""Preload: reads a workload's experts into free memory, most used first, behind everybody else's reads."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import numpy as np

from edge_runtime.base.arrays import F64
from edge_runtime.base.errors import HobbitError
from edge_runtime.base.sizes import format_size
from edge_runtime.engine.warm.usage import UsageFile, preload_order
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import EvictionRule
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.store.base import Priority

_LOG = logging.getLogger(__name__)
_PRIMING_PASSES = 64


@dataclass
class PreloadState:
    """How far it is.

    Attributes:
        preloaded: experts whose reads were started.
        wanted: experts that are remembered and fit.
        nbytes: of the reads.
        seconds: from its beginning to its end, or until now.
        is_over: nothing more is read: everything wanted is there, or memory is full.
    """

    preloaded: int = 0
    wanted: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    is_over: bool = False


class Preload:
    """For the thread that runs passes.

    Nothing is evicted for it, and its reads wait behind those of passes. The eviction rule is told the remembered uses
    first, as if the workload had run: else what was preloaded would be what goes first.

    Args:
        cache: reads.
        file: what is remembered; where this run's uses go in the end.
        top_k: K.
        depth: reads under way at once.
        clock: in seconds.
    """

    def __init__(
        self, cache: ExpertCache, file: UsageFile, *, top_k: int, depth: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._cache, self._file, self._top_k, self._depth, self._clock = cache, file, top_k, depth, clock
        self._remembered = file.read()
        self._uses = np.zeros(file.shape, np.int64)
        self._residents: Residents | None = None
        self._order: list[tuple[int, int]] = []
        self._left: deque[tuple[int, int]] = deque()
        self._started = 0.0
        self.state = PreloadState()

    def step(self) -> bool:
        """Start what reads may be started now; between two passes. Return whether there is more to read."""
        if self._cache.residents is not self._residents:
            self._begin()
        if self.state.is_over:
            return False
        self.state.seconds = self._clock() - self._started
        try:
            self._read_more()
        except HobbitError as err:
            _LOG.warning("warm start: given up: %s", err)
            self._end()
        return not self.state.is_over

    def save(self) -> None:
        """Remember this run's uses; what follows counts as another run, unless they could not be written."""
        if self._file.add(self._uses):
            self.forget()

    def forget(self) -> None:
        """Remember nothing of what ran since it was saved."""
        self._uses.fill(0)

    def to_json(self) -> dict[str, Any]:
        """Return how far it is, for reports."""
        return asdict(self.state)

    def _begin(self) -> None:
        """The cache is new, or was emptied: everything from the start."""
        if self._residents is not None:
            self._remembered = self._file.read()
        residents = self._residents = self._cache.residents
        residents.table.uses = self._uses
        self._started, self.state = self._clock(), PreloadState(is_over=self._remembered is None)
        if self._remembered is None:
            return
        prime(residents.rule, self._remembered, top_k=self._top_k, tier=residents.tier)
        self._order = preload_order(self._remembered)[: residents.num_slots]
        self.state.wanted, self._left = len(self._order), deque(self._order)

    def _read_more(self) -> None:
        residents, tier = self._cache.residents, self._cache.residents.tier
        size, tiers = residents.ledger.sizes.full_bytes, np.full(residents.num_experts, tier, np.uint8)
        self._cache.prefetch(0, [], tiers)  # collects what has been read, where no pass does
        while self._left and self._cache.num_reading < self._depth:
            layer, expert = self._left[0]
            if self._cache.resident_tiers(layer)[expert] < tier:
                if residents.ledger.free_bytes < size:
                    self._order.clear()
                    self._left.clear()
                    break
                started = self._cache.prefetch(layer, [expert], tiers, Priority.SPECULATIVE)
                self.state.preloaded += started
                self.state.nbytes += started * size
            self._left.popleft()
        if not self._left and not self._cache.num_reading:
            # a request that begins gives up reads nobody asked for, these among them
            self._left.extend(key for key in self._order if not self._cache.resident_tiers(key[0])[key[1]])
            if not self._left:
                self._end()

    def _end(self) -> None:
        self._left.clear()
        state = self.state
        state.is_over, state.seconds = True, self._clock() - self._started
        _LOG.info(
            "warm after %.2f s: %d of %d experts preloaded, %s",
            state.seconds, state.preloaded, state.wanted, format_size(state.nbytes),
        )  # fmt: skip


def prime(rule: EvictionRule, uses: F64, *, top_k: int, tier: int, passes: int = _PRIMING_PASSES) -> None:
    """Tell a rule uses float64 [L, E] as if passes had run in which each expert was chosen as often as remembered."""
    layers = [layer for layer in range(len(uses)) if uses[layer].any()]
    shares = {layer: top_k * uses[layer] / uses[layer].sum() for layer in layers}
    due: dict[int, F64] = {layer: np.zeros(uses.shape[1]) for layer in layers}
    tiers = np.full(top_k, tier, np.uint8)
    for _ in range(passes):
        rule.begin_pass()
        for layer in layers:
            due[layer] += shares[layer]
            chosen = np.argsort(-due[layer], kind="stable")[:top_k]
            due[layer][chosen] -= 1
            rule.use(layer * uses.shape[1] + np.sort(chosen), tiers)
