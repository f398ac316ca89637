"""The simulator counts what the runtime counts: the same decisions give the same hits, misses and bytes, exactly."""

from __future__ import annotations

import json

import pytest
from conftest import MODEL

from edge_runtime import Engine
from edge_runtime.__main__ import main
from edge_runtime.cli.trace import record
from edge_runtime.errors import BudgetError
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.format.calibration import read as read_calibration
from edge_runtime.simulator.belady import optimum
from edge_runtime.simulator.replay import simulate
from edge_runtime.simulator.trace import Trace

TEXT = (MODEL / "heldout_python.txt").read_text()[:1200]
EXACT = ("hits", "misses", "upgrades", "bytes_read", "by_tier", "substituted", "skipped", "route_changed", "evicted",
         "truncated", "fallbacks", "predicted_kld")  # fmt: skip
POLICIES = ["lossless", "hobbit", "hobbit:t1=0.4,t2=0.8", "cache-prior", "max-rank", "cumsum"]


def run_and_record(bundle, out, policy: str, eviction: str, slots: int, tier: int = 4) -> ExpertCounters:
    """Decode the text from an empty cache, in three windows, and record what the router said meanwhile."""
    size = {4: 49152, 8: 90112}[tier]
    options = {"tier": tier, "policy": policy, "eviction": eviction, "expert_memory": slots * size, "context": 64}
    with Engine.open(bundle, memory="2GiB", self_check=False, **options) as engine:
        record(engine, engine.tokenizer.encode(TEXT)[:160], out)
        return engine.parts.cache.counters.snapshot()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_agrees_with_the_runtime_exactly(model_bundle, tmp_path, policy):
    for eviction, slots in (("lru", 12), ("lcu", 40), ("lru", 90), ("lcu", 256)):
        ran = run_and_record(model_bundle, tmp_path / "t", policy, eviction, slots)
        found = simulate(Trace(tmp_path / "t"), policy, num_slots=slots, eviction=eviction).counters
        for name in EXACT:
            assert getattr(found, name) == getattr(ran, name), (name, eviction, slots)
        assert ran.late == found.late == 0


def test_rate_distortion_replays_exactly_with_its_prediction(calibrated_bundle, tmp_path):
    """Its decisions hang on residency, history and the price: all of it comes out the same, to the last bit."""
    policy = "rate-distortion:max_kld=0.01"
    for slots in (24, 80):
        ran = run_and_record(calibrated_bundle, tmp_path / "t", policy, "lru", slots)
        trace = Trace(tmp_path / "t")
        calibration = read_calibration(calibrated_bundle, trace.header.model)
        found = simulate(trace, policy, num_slots=slots, eviction="lru", calibration=calibration).counters
        for name in EXACT:
            assert getattr(found, name) == getattr(ran, name), (name, slots)
        assert ran.substituted > 0 < ran.skipped


def test_a_replay_of_lossless_routing_is_the_lossless_run_at_any_size(model_bundle, tmp_path):
    """One recording serves every cache size, because lossless logits do not depend on placement."""
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    for eviction, slots in (("lru", 33), ("lcu", 70)):
        ran = run_and_record(model_bundle, tmp_path / "u", "lossless", eviction, slots)
        found = simulate(Trace(tmp_path / "t"), "lossless", num_slots=slots, eviction=eviction).counters
        assert (found.hits, found.misses, found.bytes_read) == (ran.hits, ran.misses, ran.bytes_read)


def test_no_rule_beats_belady(model_bundle, tmp_path):
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    trace = Trace(tmp_path / "t")
    sizes = {tier: trace.header.layout.tier_bytes(tier) for tier in (2, 4)}
    for policy in ("lossless", "hobbit"):
        for eviction in ("lru", "lcu"):
            found = simulate(trace, policy, num_slots=40, eviction=eviction)
            bound = optimum(found.requests, sizes, 40 * sizes[4])
            assert bound.lower_bytes <= bound.upper_bytes
            assert bound.lower_bytes < found.counters.bytes_read
            assert bound.exact == (policy == "lossless")


def test_commands(model_bundle, tmp_path, capsys):
    out = str(tmp_path / "t")
    (tmp_path / "text").write_text(TEXT)
    flags = ["--memory", "1GiB", "--context", "128", "--no-self-check", "--tier", "4", "--json"]
    assert (
        main(["trace", str(model_bundle), "--text", str(tmp_path / "text"), "--out", out, "--tokens", "60", *flags])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["tokens"] == 60
    sizes = ["--expert-memory", "25%", "--expert-memory", "4MiB"]
    choice = ["--policy", "lossless", "--policy", "cache-prior:lambda=0.3", "--eviction", "lru", "--eviction", "lcu"]
    assert main(["simulate", out, *sizes, *choice, "--drive-gbps", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["runs"]) == 8
    first = report["runs"][0]
    assert first["expert_memory_bytes"] == 64 * 49152
    assert first["experts"]["lookups"] == 60 * 8 * 4
    assert first["belady"]["exact"]
    assert first["belady"]["factor_of_upper"] >= 1
    # 1 GB/s and 100 us a batch: between the bytes alone and one batch a layer
    least = first["experts"]["bytes_per_token"] / 1e9 * 1000
    assert least <= first["drive"]["wait_ms_per_token"] <= least + 8 * 0.1 + 1e-3
    assert first["estimated_tok_s"] == pytest.approx(1000 / first["drive"]["wait_ms_per_token"], rel=1e-2)
    assert main(["simulate", out, "--expert-memory", "50%"]) == 0
    assert "lossless" in capsys.readouterr().out
    assert main(["simulate", out, "--bundle", str(model_bundle), "--memory", "1GiB", "--json"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--expert-memory", "100KiB"], 78, "fewer than the 4"),
        (["--expert-memory", "x%"], 78, "percentage"),
        (["--policy", "losless"], 78, "Did you mean 'lossless'"),
        (["--eviction", "fifo"], 78, "eviction"),
        (["--tier", "3"], 78, "--tier"),
        (["--memory", "1GiB"], 78, "--bundle"),
        (["--drive-gbps", "0"], 78, "--drive-gbps"),
    ],
)
def test_wrong_flags(model_bundle, tmp_path, capsys, flags, code, message):
    with Engine.open(model_bundle, memory="1GiB", context=64, self_check=False) as engine:
        record(engine, [1, 2, 3], tmp_path / "t")
    assert main(["simulate", str(tmp_path / "t"), *flags]) == code
    assert message in capsys.readouterr().err


def test_too_small_a_cache_is_refused(model_bundle, tmp_path):
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    with pytest.raises(BudgetError, match="needs for a token"):
        simulate(Trace(tmp_path / "t"), "lossless", num_slots=3, eviction="lru")


def test_half_precision_traces_replay_nearly_the_same(model_bundle, tmp_path):
    with Engine.open(model_bundle, memory="1GiB", context=128, tier=4, self_check=False) as engine:
        ids = engine.tokenizer.encode(TEXT)[:100]
        record(engine, ids, tmp_path / "exact")
        record(engine, ids, tmp_path / "half", half=True)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "exact").stat().st_size
    exact, half = (simulate(Trace(tmp_path / n), "lossless", num_slots=60, eviction="lru") for n in ("exact", "half"))
    assert half.counters.bytes_read == pytest.approx(exact.counters.bytes_read, rel=0.02)
