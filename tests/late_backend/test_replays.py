"""A replay of what the late backend ran counts what it counted: slots of one size, as the trace says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from stores import InOrder

from edge_runtime.__main__ import main
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.engine import assembly
from edge_runtime.experts.store.file_store import FileExpertStore
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.tune.child import measure, record_trace
from edge_runtime.lab.tune.measurement import Workload
from edge_runtime.lab.tune.predict import ReplaySetting
from edge_runtime.lab.tune.replays import Replays
from late_backend import both

COUNTED = (
    *("hits", "misses", "upgrades", "truncated", "evicted", "bytes_read", "by_tier", "substituted", "skipped"),
    *("route_changed", "predicted_kld"),
)
SLOTS = 40


@pytest.fixture(autouse=True)
def _in_order(monkeypatch):
    """When a read comes back changes who may go meanwhile, which no replay knows."""
    monkeypatch.setattr(
        assembly, "FileExpertStore", lambda *args, **options: InOrder(FileExpertStore(*args, **options))
    )


@pytest.mark.parametrize("policy", ["lossless", "hobbit", "rate-distortion:max_kld=0.001"])
@pytest.mark.parametrize("backend", ["cpu", "late"])
def test_a_replay_counts_what_ran(calibrated_bundle, tmp_path, policy, backend):
    options = {"policy": policy, "eviction": "lru", "context": 64, "io_threads": 4}
    with both.opened(calibrated_bundle, backend, slots=SLOTS, **options) as engine:
        record(engine, [engine.tokenizer.encode(both.TEXT)[:120]], tmp_path / "t")
        engine.parts.cache.finish_reads()
        ran = engine.parts.cache.counters
    trace = Trace(tmp_path / "t")
    assert trace.header.whole_slots == (backend == "late")
    calibration = read_calibration(calibrated_bundle, trace.header.model)
    found = simulate(trace, ReplaySettings(SLOTS, policy, "lru", calibration=calibration)).counters
    for name in COUNTED:
        assert getattr(found, name) == getattr(ran, name), name
    assert ran.evicted > 0
    assert policy == "lossless" or len(ran.by_tier) > 1


def test_a_backend_without_page_wise_memory_holds_fewer(calibrated_bundle, tmp_path):
    """The same routing over either memory: of experts at low tiers whole slots hold no more than of others."""
    held = []
    for backend in ("cpu", "late"):
        with both.opened(calibrated_bundle, backend, slots=SLOTS, context=64) as engine:
            record(engine, [engine.tokenizer.encode(both.TEXT)[:60]], tmp_path / backend)
        trace = Trace(tmp_path / backend)
        calibration = read_calibration(calibrated_bundle, trace.header.model)
        found = simulate(trace, ReplaySettings(SLOTS, "edgemoe:bits=3", "lru", calibration=calibration))
        held.append(found.counters.hits)
    assert held[0] > held[1]


def test_predictions_of_tune_count_what_it_measures(calibrated_bundle: Path, tmp_path):
    policy = "edgemoe:bits=3"  # what it decides does not hang on residents, which a prompt's chunks change
    workload = Workload([[*range(5, 17)], [*range(40, 52)], [*range(90, 102)]], 10)
    options = {
        "backend": "late", "policy": policy, "expert_memory": "4MiB", "eviction": "lru", "tier": 8, "context": 128,
        "threads": 1, "io_threads": 4, "prefetch": "off", "prefill_chunk": 8,
    }  # fmt: skip
    job = {"bundle": str(calibrated_bundle), "options": options, "workload": asdict(workload)}
    measured = measure(job)
    texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(workload.prompts, measured["answers"], strict=True)]
    record_trace(job | {"texts": texts, "trace": str(tmp_path / "t")})
    trace = Trace(tmp_path / "t")
    replays = Replays(trace, workload, 8, read_calibration(calibrated_bundle, trace.header.model))
    slots = (4 << 20) // trace.header.layout.tier_bytes(8)
    found = replays(ReplaySetting(slots, "lru", policy, 8))
    assert found.bytes_per_token == pytest.approx(measured["bytes_per_token"]) != 0


def test_no_bound_is_shown_where_it_assumes_other_memory(calibrated_bundle, tmp_path, capsys):
    with both.opened(calibrated_bundle, "late", slots=SLOTS, context=64) as engine:
        record(engine, [engine.tokenizer.encode(both.TEXT)[:30]], tmp_path / "t")
    several = ["--policy", "lossless", "--policy", "hobbit", "--bundle", str(calibrated_bundle)]
    assert main(["simulate", str(tmp_path / "t"), "--expert-memory", "25%", *several, "--json"]) == 0
    lossless, hobbit = json.loads(capsys.readouterr().out)["runs"]
    assert lossless["belady"]["exact"]
    assert hobbit["belady"] is None
