"""ElasticMemory: looks at memory a few times a second and fits a running engine's experts into what there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import Any

from edge_runtime.base.errors import BudgetError, DeviceError, ExpertReadError
from edge_runtime.base.sizes import format_size
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.pressure import Pressure, PressureWatch
from edge_runtime.engine.elastic.governor import Habits, MemoryGovernor

_LOG = logging.getLogger(__name__)
EVERY_S = 0.1


class ElasticMemory:
    """Follows memory. For the thread that runs passes.

    Args:
        plan: in force at the start.
        watch: looks at pressure; owned from now on.
        requested: returns --memory, the most there can be; None for auto.
        apply: changes the budget; returns the plan that is then in force.
        can_shrink_now: whether `apply` may shrink in the middle of a pass.
        habits: of the governor.
        clock: in seconds.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        watch: PressureWatch,
        requested: Callable[[], int | None],
        apply: Callable[[int], MemoryPlan],
        can_shrink_now: Callable[[], bool] = lambda: False,
        *,
        habits: Habits | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._watch, self._requested, self._apply, self._clock, self._habits = watch, requested, apply, clock, habits
        self._can_shrink_now = can_shrink_now
        self._next = 0.0
        self._plan = plan
        self._governor = self._make(plan)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return self._clock() >= self._next

    def start_over(self, plan: MemoryPlan) -> None:
        """Options changed: follow from this plan on."""
        self._plan, self._governor = plan, self._make(plan)

    def follow(self, *, may_grow: bool = True) -> bool:
        """Look, if it is time, and do what the governor says; return whether the budget changed.

        Args:
            may_grow: in the middle of a pass experts only shrink.
        """
        if not self.is_due:
            return False
        self._next = self._clock() + EVERY_S
        try:
            pressure = self.look()
        except DeviceError as err:
            _LOG.warning("elastic memory: %s", err)
            return False
        budget = self._plan.planned_bytes
        wanted = self._governor.decide(self._clock(), pressure, budget, may_grow=may_grow)
        if wanted is None:
            return False
        try:
            self._plan = self._apply(wanted)
        except (BudgetError, ExpertReadError) as err:
            _LOG.warning("elastic memory: the budget stays at %s: %s", format_size(budget), err)
            return False
        _LOG.info("elastic memory: %s, from %s", format_size(self._plan.planned_bytes), format_size(budget))
        return True

    def watching(self, before_layer: Callable[[], None]) -> Callable[[], None]:
        """Return what is called before every layer: a long prompt must not keep memory that others need meanwhile."""

        def watch() -> None:
            before_layer()
            if self.is_due and self._can_shrink_now():
                self.follow(may_grow=False)

        return watch

    def close(self) -> None:
        """Look no more. Safe to call twice."""
        self._watch.close()

    def look(self) -> Pressure:
        """Return what memory there is and how scarce it is.

        Raises:
            DeviceError: the system does not say.
        """
        return self._watch.look(requested=self._requested(), enough=self._governor.enough_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return what it did, for reports."""
        return asdict(self._governor.moves) | {"budget_bytes": self._plan.planned_bytes}

    def _make(self, plan: MemoryPlan) -> MemoryGovernor:
        fixed = plan.planned_bytes - plan.arena_bytes
        return MemoryGovernor(
            floor_bytes=plan.floor_bytes, most_bytes=fixed + plan.all_experts * plan.slot_bytes, habits=self._habits
        )
