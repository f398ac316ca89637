"""The simulator counts what the runtime counts: the same decisions give the same hits, misses and bytes, exactly."""

from __future__ import annotations

import json

import pytest
from conftest import MODEL
from rooms_made import RoomsMade
from stores import InOrder

from edge_runtime import Engine
from edge_runtime.__main__ import main
from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.bundle.manifest_file import read as read_manifest
from edge_runtime.engine import assembly
from edge_runtime.experts.counters import ExpertCounters
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.lab.simulator.belady import optimum
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.policy import POLICIES as KNOWN

TEXT = (MODEL / "heldout_python.txt").read_text()[:1200]
EXACT = ("hits", "late", "misses", "upgrades", "bytes_read", "by_tier", "substituted", "skipped", "route_changed", "evicted",
         "truncated", "fallbacks", "predicted_kld")  # fmt: skip
POLICIES = [
    "lossless", "hobbit", "hobbit:t1=0.4,t2=0.8", "cache-prior", "cache-prior:lambda=0.3,admit=2", "max-rank", "cumsum",
    "mobile", "mobile:fallbacks=0.4,window=32,signal=margin,ahead=3", "mobile:threshold=0.3,signal=entropy",
    "rate-distortion:max_kld=0.01", "adapmoe", "smoe", "skip", "lexi", "edgemoe:bits=3", "mcsharp:bits=3",
]  # fmt: skip


def replayed(bundle, path, policy: str, eviction: str, slots: int, *, prefetch: bool = False) -> ExpertCounters:
    trace = Trace(path)
    calibration = read_calibration(bundle, trace.header.model)
    settings = ReplaySettings(slots, policy, eviction, calibration=calibration, prefetch=prefetch)
    return simulate(trace, settings).counters


def run_and_record(
    bundle, out, policy: str, eviction: str, slots: int, tier: int = 4, prefetch: str = "off"
) -> ExpertCounters:
    """Decode the text from an empty cache, in three windows, and record what the router said meanwhile."""
    size = read_manifest(bundle).layout.tier_bytes(tier)
    options = {"tier": tier, "policy": policy, "eviction": eviction, "expert_memory": slots * size, "context": 64}
    options["prefetch"] = prefetch
    with Engine.open(bundle, memory="2GiB", self_check=False, **options) as engine:
        record(engine, [engine.tokenizer.encode(TEXT)[:160]], out)
        engine.parts.cache.finish_reads()  # the last layers' reads ahead may still be under way
        return engine.parts.cache.counters


@pytest.fixture
def in_order(monkeypatch):
    monkeypatch.setattr(
        assembly, "FileExpertStore", lambda *args, **options: InOrder(FileExpertStore(*args, **options))
    )


def test_every_policy_is_replayed():
    assert {policy.partition(":")[0] for policy in POLICIES} == set(KNOWN)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.usefixtures("in_order")
def test_a_replay_agrees_with_the_runtime_exactly(calibrated_bundle, tmp_path, policy):
    """Every decision hangs on residency and history: all of it comes out the same, predicted losses to the last bit."""
    for eviction, slots in (
        ("lru", 12),
        ("lcu", 40),
        ("next-use", 40),
        ("rate-distortion", 90),
        ("layer-sizes", 40),
        ("mdc", 256),
    ):
        ran = run_and_record(calibrated_bundle, tmp_path / "t", policy, eviction, slots)
        found = replayed(calibrated_bundle, tmp_path / "t", policy, eviction, slots)
        for name in EXACT:
            assert getattr(found, name) == getattr(ran, name), (name, eviction, slots)


@pytest.mark.parametrize("predictor", ["lookahead:depth=3", "expert-map:depth=2,capacity=40", "statistical"])
@pytest.mark.parametrize("policy", ["lossless", "hobbit", "cache-prior:lambda=0.2", "mobile", "rate-distortion"])
@pytest.mark.usefixtures("in_order")
def test_what_was_read_ahead_is_replayed_exactly(calibrated_bundle, tmp_path, predictor, policy):
    prefetch = predictor + ("," if ":" in predictor else ":") + "adaptive=false"
    for eviction, slots in (("lru", 20), ("next-use", 40), ("lcu", 60)):
        ran = run_and_record(calibrated_bundle, tmp_path / "t", policy, eviction, slots, prefetch=prefetch)
        found = replayed(calibrated_bundle, tmp_path / "t", policy, eviction, slots, prefetch=True)
        for name in (*EXACT, "prefetch_issued", "prefetch_used", "prefetch_wasted"):
            assert getattr(found, name) == getattr(ran, name), (name, eviction, slots)
        assert ran.prefetch_issued > 0


@pytest.mark.parametrize("predictor", ["lookahead:depth=1", "lookahead:depth=3", "statistical"])
@pytest.mark.parametrize("tier", [4, 8])
@pytest.mark.usefixtures("in_order")
def test_so_is_memory_whose_units_keep_their_size(large_bundle, tmp_path, monkeypatch, tier, predictor):
    """Experts from 256 KiB on: some go although bytes enough are free, and a replay has to let the same ones go."""
    prefetch = predictor + ("," if ":" in predictor else ":") + "adaptive=false"
    policy, names = "hobbit:t1=0.6,t2=0.95", (*EXACT, "prefetch_issued", "prefetch_used", "prefetch_wasted")
    rooms = RoomsMade(monkeypatch)
    for eviction in ("lru", "next-use", "lcu"):
        ran = run_and_record(large_bundle, tmp_path / "t", policy, eviction, 20, tier, prefetch)
        found = replayed(large_bundle, tmp_path / "t", policy, eviction, 20, prefetch=True)
        assert {name: getattr(found, name) for name in names} == {name: getattr(ran, name) for name in names}
        assert min(ran.by_tier[2], ran.by_tier[tier], ran.evicted, ran.prefetch_wasted) > 0, "or this shows little"
    assert rooms.despite_free_bytes > 0


@pytest.mark.parametrize("eviction", ["lru", "next-use"])
@pytest.mark.usefixtures("in_order")
def test_what_the_governor_decided_is_replayed(calibrated_bundle, tmp_path, eviction):
    """Whether reading ahead pays is judged by time, which a replay has not: it repeats the judgement."""
    ran = run_and_record(calibrated_bundle, tmp_path / "t", "lossless", eviction, 24, prefetch="lookahead")
    marks = [one.is_prefetching for one in Trace(tmp_path / "t")]
    assert True in marks
    assert False in marks
    found = replayed(calibrated_bundle, tmp_path / "t", "lossless", eviction, 24, prefetch=True)
    for name in (*EXACT, "prefetch_issued", "prefetch_used", "prefetch_wasted"):
        assert getattr(found, name) == getattr(ran, name), name


@pytest.mark.usefixtures("in_order")
def test_a_fallback_is_recorded_as_two_passes(calibrated_bundle, tmp_path):
    ran = run_and_record(calibrated_bundle, tmp_path / "t", "mobile:threshold=0.3,signal=margin", "next-use", 40)
    trace = Trace(tmp_path / "t")
    rejected = [one for one in trace if one.is_rejected]
    assert 0 < len(rejected) == ran.fallbacks < 160
    assert (trace.passes, trace.tokens) == (160 + ran.fallbacks, 160)
    other = replayed(calibrated_bundle, tmp_path / "t", "mobile:threshold=0", "next-use", 40)
    assert other.fallbacks == 0, "another threshold judges by the recorded confidence"
    with pytest.raises(ConfigError, match="holds no predictions"):
        replayed(calibrated_bundle, tmp_path / "t", "lossless", "lru", 40, prefetch=True)


def test_a_replay_of_lossless_routing_is_the_lossless_run_at_any_size(model_bundle, tmp_path):
    """One recording serves every cache size, because lossless logits do not depend on placement."""
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    for eviction, slots in (("lru", 33), ("next-use", 50), ("lcu", 70)):
        ran = run_and_record(model_bundle, tmp_path / "u", "lossless", eviction, slots)
        found = simulate(Trace(tmp_path / "t"), ReplaySettings(slots, eviction=eviction)).counters
        assert (found.hits, found.misses, found.bytes_read) == (ran.hits, ran.misses, ran.bytes_read)


def test_no_rule_beats_belady(model_bundle, tmp_path):
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    trace = Trace(tmp_path / "t")
    full = trace.header.layout.tier_bytes(4)
    for policy in ("lossless", "hobbit"):
        for eviction in ("lru", "lcu", "next-use"):
            found = simulate(trace, ReplaySettings(40, policy, eviction))
            bound = optimum(found.requests, found.kept_bytes, 40 * full)
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
    assert first["estimated_tok_s"] is None, "nobody said what computing takes"
    timed = ["simulate", out, *sizes[:2], "--drive-gbps", "1", "--compute-ms", "3"]
    assert main([*timed, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert run["eviction"] == "next-use", "what an engine does unless it is told otherwise"
    assert run["estimated_tok_s"] == pytest.approx(1000 / (3 + run["drive"]["wait_ms_per_token"]), rel=1e-2)
    assert main(timed) == 0
    said = capsys.readouterr()
    assert "tok/s" in said.out
    assert said.err == ""
    assert main(["simulate", out, "--expert-memory", "50%"]) == 0
    said = capsys.readouterr()
    assert "lossless" in said.out
    assert "tok/s" not in said.out
    assert "--compute-ms states the time of a token" in said.err
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
        record(engine, [[1, 2, 3]], tmp_path / "t")
    assert main(["simulate", str(tmp_path / "t"), *flags]) == code
    assert message in capsys.readouterr().err


def test_too_small_a_cache_is_refused(model_bundle, tmp_path):
    run_and_record(model_bundle, tmp_path / "t", "lossless", "lru", 256)
    with pytest.raises(BudgetError, match="needs for a token"):
        simulate(Trace(tmp_path / "t"), ReplaySettings(3))


def test_half_precision_traces_replay_nearly_the_same(model_bundle, tmp_path):
    with Engine.open(model_bundle, memory="1GiB", context=128, tier=4, self_check=False) as engine:
        ids = engine.tokenizer.encode(TEXT)[:100]
        record(engine, [ids], tmp_path / "exact")
        record(engine, [ids], tmp_path / "half", half=True)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "exact").stat().st_size
    exact, half = (simulate(Trace(tmp_path / n), ReplaySettings(60)) for n in ("exact", "half"))
    assert half.counters.bytes_read == pytest.approx(exact.counters.bytes_read, rel=0.02)
