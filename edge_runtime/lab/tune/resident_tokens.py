"""Times tokens that find every expert in memory, on an engine whose cache holds only some: by saying them again."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter, perf_counter_ns

from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.telemetry.samples import phases

_MOST_TOKENS = 4
_ROUNDS = 3
"""At least, behind the two that fill the cache."""


def resident_token_ms(engine: Engine, token: int, position: int, seconds: float) -> dict[str, float] | None:
    """Return milliseconds by phase of a decoded token that reads nothing; None if the cache is too small for any.

    A short answer is given again and again, so that its experts stay. Those of all layers are far more than a CPU's
    caches hold, as in any decoding, while one layer's may fit there if they are computed alone. The prompt is one token
    again and again, which uses the same experts at each place.

    Args:
        engine: nobody else uses it meanwhile.
        token: of the prompt.
        position: tokens of the prompt, so that attention takes what it does there.
        seconds: to measure.
    """
    parts = engine.parts
    passes = min(_MOST_TOKENS, parts.plan.num_slots // max(parts.plan.working_set, 1))
    if passes < 2:  # that of the prompt's last token, and one to be timed
        return None
    params = SamplingParams(max_tokens=passes, temperature=0, ignore_eos=True)
    found: list[dict[str, int]] = []
    prompt = [token] * max(1, min(position, parts.config.context - passes))
    started, rounds = perf_counter(), 0
    while rounds < _ROUNDS + 2 or perf_counter() - started < seconds:
        tokens = list(_resident(engine, prompt, params))
        found += tokens if rounds > 1 else []
        rounds += 1
    if not found:
        return None
    return {name: median(token.get(name, 0) for token in found) / 1e6 for name in found[0]}


def _resident(engine: Engine, prompt: list[int], params: SamplingParams) -> Iterator[dict[str, int]]:
    """Answer once; yield nanoseconds by phase of each token behind the first that neither read nor waited."""
    stream = engine.stream(prompt, params)
    next(stream)
    spans, counters = dict(engine.parts.decoder.spans.ns), engine.parts.cache.counters
    started = perf_counter_ns()
    for _ in stream:
        wall = perf_counter_ns() - started
        now, totals = dict(engine.parts.decoder.spans.ns), engine.parts.cache.counters
        new = totals.since(counters)
        if new.hits == new.lookups and not new.bytes_read:
            own = {name: ns - spans.get(name, 0) for name, ns in now.items()}
            yield phases(wall, own, new.stall_ns)
        spans, counters = now, totals
        started = perf_counter_ns()
