"""Runs the requests of a benchmark: warm-up, a sentinel, the measured ones, the sentinel again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_runtime.engine.api import Engine
from edge_runtime.lab.bench.measured import Before, Request, measure
from edge_runtime.lab.bench.page_cache import drop_page_cache, page_cache_of
from edge_runtime.lab.bench.prompts import Prompts
from edge_runtime.lab.bench.settings import BenchSettings
from edge_runtime.lab.bench.thermal_gate import ThermalGate
from edge_runtime.telemetry.conditions import Conditions, read_conditions

OpenEngine = Callable[[], Engine]
Traced = Callable[[Engine], None]


@dataclass
class BenchSession:
    """Everything that was measured so far.

    Attributes:
        facts: what is the same for every request: memory plan, I/O mode, instruction set, library.
        requests: measured requests, in order.
        sentinels: the same request at start and end, which should take the same time.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sentinels: list[Request] = field(default_factory=list)


class Bench:
    """What requests are run with.

    Args:
        open_engine: opens the engine.
        prompts: of the requests.
        settings: how many of them.
        bundle: its files are looked for in the page cache.
        root: where /sys is, for temperatures.
        traced: given an engine at the end, runs what is to be recorded; None: nothing is.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        prompts: Prompts,
        settings: BenchSettings,
        bundle: Path,
        *,
        root: Path = Path("/"),
        traced: Traced | None = None,
    ) -> None:
        self._open_engine, self._prompts, self._settings, self._bundle = open_engine, prompts, settings, bundle
        self._root, self._traced = root, traced
        self._gate = ThermalGate(
            lambda: self._conditions().hottest_c, rise_c=settings.gate_rise_c, limit_s=settings.gate_s
        )

    def run(self, session: BenchSession) -> Iterator[int]:
        """Run everything into `session`; yield after every request, warm-up and sentinels included.

        Raises:
            RequestError: the requests do not fit the context, a request ended early, or the page cache cannot be made
                cold.
        """
        yield from self._cold(session) if self._settings.cache == "cold" else self._warm(session)

    def _cold(self, session: BenchSession) -> Iterator[int]:
        settings = self._settings
        order: list[tuple[int, list[Request]]] = [(number, session.requests) for number in range(settings.repeat)]
        if settings.sentinel:
            sentinel = settings.repeat, session.sentinels
            order = [sentinel, *order, sentinel]
        for place, (number, into) in enumerate(order):
            cold = drop_page_cache(self._bundle)  # as it is before the engine opens and reads the trunk
            with self._opened(session) as engine:
                found = replace(self._before(), page_cache=cold)
                into.append(self._measure(engine, number, found))
                if place + 1 == len(order) and self._traced is not None:
                    self._traced(engine)
            yield place

    def _warm(self, session: BenchSession) -> Iterator[int]:
        settings = self._settings
        after_warmup = settings.warmup + settings.repeat
        with self._opened(session) as engine:
            for number in range(settings.warmup):
                measure(engine, self._prompts, settings, number)
                yield number
            for number in range(settings.sentinel):
                session.sentinels.append(self._measure(engine, after_warmup, self._before()))
                yield number
            for number in range(settings.warmup, after_warmup):
                session.requests.append(self._measure(engine, number, self._before()))
                yield number
            for number in range(settings.sentinel):
                session.sentinels.append(self._measure(engine, after_warmup, self._before()))
                yield number
            if self._traced is not None:
                self._traced(engine)

    def _before(self) -> Before:
        passed = self._gate.wait()
        return Before(page_cache_of(self._bundle), passed, self._conditions())

    def _measure(self, engine: Engine, number: int, found: Before) -> Request:
        request = measure(engine, self._prompts, self._settings, number, found)
        return replace(request, after=self._conditions())

    def _conditions(self) -> Conditions:
        return read_conditions(self._root)

    @contextmanager
    def _opened(self, session: BenchSession) -> Iterator[Engine]:
        with closing(self._open_engine()) as engine:
            self._settings.check_context(engine.parts.config.context)
            session.facts = session.facts or facts_of(engine)
            yield engine


def facts_of(engine: Engine) -> dict[str, Any]:
    """Return what the report says about an engine besides the contract's objects."""
    parts = engine.parts
    config, plan = parts.config, parts.plan
    return {
        "threads": config.threads,
        "io_threads": config.io_threads,
        "read_chunk_bytes": config.read_chunk,
        "read_mode": parts.cache.store_mode,
        "read_method": parts.cache.store_method,
        "tier": config.tier,
        "context": config.context,
        "eviction": parts.active.eviction,
        "prefetch": parts.active.prefetch,
        "profile": config.profile.name,
        "num_slots": plan.num_slots,
        "num_all_experts": plan.all_experts,
        "computes_on": parts.fingerprint,
        "trunk_bytes": parts.trunk.weight_bytes,
        "tier_bytes": {str(tier): size for tier, size in parts.needs.slot_bytes.items()},
        "is_fully_resident": bool(parts.cache.fits_all),
    }
