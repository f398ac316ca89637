"""Every expert in memory at two bits: a miss does not wait, tokens do not depend on the drive, and a replay is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL
from stores import InOrder, Late

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.engine import assembly
from edge_runtime.engine.reload import Reload
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace

TEXT = (MODEL / "heldout_python.txt").read_text()
BASE, ALL, SLOT = 28672, 256, {4: 49152, 8: 90112}
DECIDED = ("lookups", "by_tier", "substituted", "substituted_to", "skipped", "route_changed", "predicted_kld")
EXACT = ("hits", "late", "misses", "upgrades", "bytes_read", "by_tier", "substituted", "skipped", "evicted", "truncated",
         "predicted_kld")  # fmt: skip
AHEAD = "lookahead:depth=2,adaptive=false"


def opened(bundle: Path, **more: Any) -> Engine:
    options = {"tier": 8, "context": 256, "memory": "2GiB", "expert_memory": "11MiB", "self_check": False,
               "base_resident": True, "max_kld": 0.02, "prefetch": "off", **more}  # fmt: skip
    return Engine.open(bundle, **options)


def ran(engine: Engine) -> tuple[list[Any], list[int], dict[str, Any], ExpertCounters]:
    """Prompts and single tokens, of two texts; return logits, tokens, what was decided, and all counts."""
    ids, before = engine.tokenizer.encode(TEXT), engine.parts.cache.counters
    seen = [engine.logits(ids[start : start + 40], chunk=chunk) for start, chunk in ((0, 1), (40, 17), (80, 1))]
    report = engine.generate(ids[:30], SamplingParams(max_tokens=20, ignore_eos=True))
    counters = engine.parts.cache.counters.since(before)
    return seen, report.token_ids, {name: getattr(counters, name) for name in DECIDED}, counters


def store_that(monkeypatch, how: Any) -> None:
    monkeypatch.setattr(assembly, "FileExpertStore", lambda *args, **options: how(FileExpertStore(*args, **options)))


def test_a_budget_that_holds_two_bits_waits_for_nothing(calibrated_bundle, monkeypatch):
    store_that(monkeypatch, InOrder)
    with opened(calibrated_bundle, max_kld=0.5) as engine:
        plan = engine.parts.plan
        assert (plan.base_tier, plan.base_bytes) == (2, ALL * BASE)
        assert engine.parts.cache.counters.bytes_read == ALL * BASE, "it is read when the engine opens"
        counters = ran(engine)[3]
    assert (counters.misses, counters.late, counters.evicted) == (0, 0, 0)
    assert counters.by_tier[2] > 0
    assert counters.by_tier[4] + counters.by_tier[8] > counters.by_tier[2], "what was deepened meanwhile serves"
    assert counters.bytes_read > 0
    assert counters.predicted_kld > 0


def test_a_small_budget_waits_and_is_kept(calibrated_bundle):
    lost = {}
    for budget in (0.0005, 0.02):
        with opened(calibrated_bundle, tier=4, expert_memory="7.5MiB", max_kld=budget) as engine:
            ids = engine.tokenizer.encode(TEXT)[:200]
            before = engine.parts.cache.counters
            engine.logits(ids, chunk=1)
            counters = engine.parts.cache.counters.since(before)
            lost[budget] = (counters.predicted_kld or 0.0) / len(ids)
            assert (counters.upgrades > 20) == (budget < 0.02), counters
    assert lost[0.0005] < 0.0015 < lost[0.02]


@pytest.mark.parametrize("budget", [0.0005, 0.02])
def test_tokens_and_decisions_do_not_depend_on_when_reads_land(calibrated_bundle, monkeypatch, budget):
    found = []
    options = {"tier": 4, "expert_memory": "8MiB", "max_kld": budget}
    for how, more in (
        (lambda store: store, {"io_threads": 1}), (InOrder, {}), (Late, {}), (Late, {"prefetch": AHEAD, "threads": 1}),
    ):  # fmt: skip
        store_that(monkeypatch, how)
        with opened(calibrated_bundle, **options, **more) as engine:
            found.append(ran(engine))
    for logits, tokens, decided, _ in found[1:]:
        for one, other in zip(found[0][0], logits, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (tokens, decided) == found[0][1:3]
    assert found[2][3].late > found[1][3].late, "reads came late, and were waited for"


@pytest.mark.parametrize(("tier", "slots"), [(4, 152), (4, 190), (8, 90), (8, 128), (8, 256)])
def test_a_replay_agrees_with_the_runtime_exactly(calibrated_bundle, tmp_path, monkeypatch, tier, slots):
    store_that(monkeypatch, InOrder)
    calibration = None
    for eviction, budget, prefetch in (
        ("next-use", 0.02, "off"), ("rate-distortion", 0.001, "off"), ("lru", 0.002, AHEAD), ("mdc", 0.02, AHEAD),
    ):  # fmt: skip
        options = {"tier": tier, "expert_memory": slots * SLOT[tier], "eviction": eviction, "prefetch": prefetch}
        with opened(calibrated_bundle, context=64, max_kld=budget, **options) as engine:
            opened_with = engine.parts.cache.counters
            record(engine, [engine.tokenizer.encode(TEXT)[:160]], tmp_path / "t")
            engine.parts.cache.finish_reads()
            ran, policy = engine.parts.cache.counters.since(opened_with), engine.parts.active.text
        trace = Trace(tmp_path / "t")
        calibration = calibration or read_calibration(calibrated_bundle, trace.header.model)
        ahead = prefetch != "off" and trace.header.ahead
        settings = ReplaySettings(slots, policy, eviction, calibration=calibration, prefetch=bool(ahead))
        replay = simulate(trace, settings)
        found = replay.counters
        for name in (*EXACT, "prefetch_issued", "prefetch_used", "prefetch_wasted"):
            assert getattr(found, name) == getattr(ran, name), (name, eviction)
        if prefetch == "off":
            assert (replay.drive_s > 0) == (found.misses > 0), "nobody waits for what is read in the background"


def test_memory_that_changes_keeps_the_base(calibrated_bundle):
    """Placement changes what is decided here, as with any policy that looks at it; but never what is always there."""
    with opened(calibrated_bundle, expert_memory="20MiB") as engine:
        ids = engine.tokenizer.encode(TEXT)[:60]
        for size in ("8MiB", "22MiB", "9MiB"):
            engine.resize(expert_memory=size)
            engine.logits(ids, chunk=1)
            for layer in range(8):
                assert (engine.parts.cache.resident_tiers(layer) >= 2).all()
        with pytest.raises(BudgetError, match=r"all 256 experts at 2 bits 7\.00 MiB and 4 of them at 8 bits"):
            engine.resize(expert_memory="7MiB")
        assert engine.parts.cache.counters.evicted == 0


def test_a_reload_reads_the_base_or_lets_it_go(calibrated_bundle):
    options = {"expert_memory": "9MiB", "self_check": False, "context": 64}
    with Engine.open(calibrated_bundle, policy="hobbit", **options) as engine:
        with pytest.raises(ConfigError, match="with base=true expects every expert in memory"):
            engine.parts.active.make("rate-distortion:base=true")
        engine.reload(Reload(policy="rate-distortion:max_kld=0.02,base=true"))
        assert (engine.parts.plan.base_tier, engine.parts.cache.residents.is_complete) == (2, True)
        before = engine.parts.cache.counters
        engine.generate("import os", SamplingParams(max_tokens=8, ignore_eos=True))
        assert engine.parts.cache.counters.since(before).by_tier[2] > 0
        with pytest.raises(BudgetError, match="does not hold all 256 experts"):
            engine.reload(Reload(expert_memory="6MiB"))
        engine.reload(Reload(policy="lossless"))
        assert (engine.parts.plan.base_tier, engine.parts.cache.residents.table.num_resident) == (0, 0)


def test_full_precision_beside_a_base_waits_for_planes_alone(calibrated_bundle):
    """Whoever decides for every expert in full, as a request's own policy may, gets what lossless says."""
    prompt, params = "import os", SamplingParams(max_tokens=12, ignore_eos=True)
    with Engine.open(calibrated_bundle, self_check=False, context=64) as engine:
        expected = engine.generate(prompt, params).token_ids
    with opened(calibrated_bundle, expert_memory="8MiB", context=64) as engine:
        with engine.deciding_with(engine.parts.active.make("lossless")):
            found = engine.generate(prompt, params)
        assert found.token_ids == expected
        assert found.experts["by_tier"] == {"2": 0, "4": 0, "6": 0, "8": found.experts["lookups"]}
        assert found.experts["upgrades"] == found.experts["misses"] > 0
