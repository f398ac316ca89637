"""Reading ahead changes no token, under any policy: those that look at residency are shown what it would be without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine, SamplingParams

TEXT = (MODEL / "heldout_python.txt").read_text()
DECIDED = ("lookups", "by_tier", "substituted", "skipped", "route_changed", "predicted_kld", "fallbacks")
LOSSY = ["hobbit", "hobbit:t1=0.3,t2=0.7", "cache-prior:lambda=0.4", "max-rank", "cumsum", "smoe",
         "rate-distortion", "edgemoe:bits=3", "mcsharp:bits=3", "mobile"]  # fmt: skip
ALWAYS = "lookahead:depth=2,adaptive=false"


def opened(bundle, policy: str, prefetch: str, **more: Any) -> Engine:
    options = {"tier": 8, "context": 256, "memory": "2GiB", "expert_memory": "4MiB", "self_check": False, **more}
    return Engine.open(bundle, policy=policy, prefetch=prefetch, **options)


def ran(engine: Engine) -> tuple[Any, ...]:
    """Prompts and single tokens, of two texts; return logits and what was decided."""
    ids = engine.tokenizer.encode(TEXT)
    seen = [engine.logits(ids[start : start + 40], chunk=chunk) for start, chunk in ((0, 1), (40, 17), (80, 1))]
    report = engine.generate(ids[:30], SamplingParams(max_tokens=20, ignore_eos=True))
    counters = engine.parts.cache.counters
    return seen, report.token_ids, {name: getattr(counters, name) for name in DECIDED}, counters.prefetch_issued


@pytest.mark.parametrize("policy", LOSSY)
def test_reading_ahead_changes_no_logit_and_no_decision(calibrated_bundle, policy):
    found = {}
    for prefetch in ("off", ALWAYS):
        with opened(calibrated_bundle, policy, prefetch) as engine:
            found[prefetch] = ran(engine)
    without, ahead = found["off"], found[ALWAYS]
    for one, other in zip(without[0], ahead[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert without[1:3] == ahead[1:3]
    assert ahead[3] > without[3], "something was read ahead"


def test_nor_where_free_memory_keeps_its_size(large_bundle):
    """Experts from 256 KiB on, a chunk that fills the memory, reads that come as they do."""
    found = []
    for prefetch, threads in (("off", 8), (ALWAYS, 8), (ALWAYS, 1)):
        more = {"expert_memory": "10MiB", "io_threads": threads}
        with opened(large_bundle, "hobbit:t1=0.6,t2=0.95", prefetch, **more) as engine:
            found.append(ran(engine))
            assert engine.parts.cache.residents.ledger.sizes.full_bytes > 256 << 10
            assert min(engine.parts.cache.counters.by_tier[tier] for tier in (2, 8)) > 0
    for other in found[1:]:
        for one, another in zip(found[0][0], other[0], strict=True):
            np.testing.assert_array_equal(one, another)
        assert found[0][1:3] == other[1:3]
    assert [each[3] > 0 for each in found] == [False, True, True]


def test_reads_in_the_background_count_when_they_are_asked_for_not_when_they_come(calibrated_bundle):
    """Of a policy that admits displaced experts, tokens repeat although its reads are late or not, as the drive is."""
    found = []
    for threads in (1, 8):
        with opened(calibrated_bundle, "cache-prior:admit=2,lambda=0.3", ALWAYS, io_threads=threads) as engine:
            found.append(ran(engine))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0][1:3] == found[1][1:3]


@pytest.mark.parametrize(
    ("bundle", "sizes"),
    [
        ("calibrated_bundle", ("4MiB", "2MiB", "6MiB", "3MiB")),
        ("large_bundle", ("12MiB", "6MiB", "16MiB", "8MiB")),
    ],
)
def test_memory_that_changes_is_followed(request, bundle, sizes):
    """Less memory, then more, between two texts: decisions stay those of a run that reads nothing ahead."""
    found = {}
    for prefetch in ("off", ALWAYS):
        with opened(request.getfixturevalue(bundle), "hobbit:t1=0.3,t2=0.7", prefetch) as engine:
            seen = []
            for size in sizes:
                engine.resize(expert_memory=size)
                seen.append(engine.logits(engine.tokenizer.encode(TEXT)[:40], chunk=1))
            found[prefetch] = seen
    for one, other in zip(found["off"], found[ALWAYS], strict=True):
        np.testing.assert_array_equal(one, other)
