"""What predictions of `hobbit tune` rest on: replays that count what measurements read, and tokens that read nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from edge_runtime import Engine
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.tune import speeds
from edge_runtime.lab.tune.child import measure, record_trace, run_rehearsal, write_reference
from edge_runtime.lab.tune.measurement import Workload
from edge_runtime.lab.tune.policies import LossAllowed
from edge_runtime.lab.tune.predict import ReplaySetting
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.replays import Replays
from edge_runtime.lab.tune.resident_tokens import resident_token_ms
from edge_runtime.policy import POLICIES

WORKLOAD = Workload([[*range(5, 17)], [*range(40, 52)], [*range(90, 102)]], 10)
OPTIONS = {"context": 128, "threads": 1, "tier": 8, "prefetch": "off", "eviction": "lru", "prefill_chunk": 8}


@pytest.fixture(scope="module")
def replays(model_bundle, tmp_path_factory):
    """Of the workload, as a measurement answered it."""
    trace = tmp_path_factory.mktemp("replays") / "t"
    job = {"bundle": str(model_bundle), "options": OPTIONS | {"expert_memory": "6MiB"}, "workload": asdict(WORKLOAD)}
    answers = measure(job)["answers"]
    assert len(answers) == len(WORKLOAD.prompts), "that of warming up too"
    texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(WORKLOAD.prompts, answers, strict=True)]
    assert record_trace(job | {"texts": texts, "trace": str(trace)}) == {"passes": sum(map(len, texts))}
    return Replays(Trace(trace), WORKLOAD, 8)


@pytest.mark.parametrize("size", ["3MiB", "6MiB"])
def test_a_replay_reads_what_a_measurement_reads(model_bundle: Path, replays, size):
    """To the byte: prompts in chunks between the tokens, the requests that do not count before those that do."""
    job = {"bundle": str(model_bundle), "options": OPTIONS | {"expert_memory": size}, "workload": asdict(WORKLOAD)}
    measured = measure(job)
    with Engine.open(model_bundle, self_check=False, **job["options"]) as engine:
        slots, used = engine.plan.num_slots, engine.plan.working_set
    found = replays(ReplaySetting(slots, "lru", "lossless", 8))
    assert found.bytes_per_token == pytest.approx(measured["bytes_per_token"]) != 0
    assert found.uses == {8: used}
    assert 0 < found.batches_per_token <= engine.spec.num_layers


@pytest.mark.parametrize("size", ["3MiB", "6MiB"])
def test_a_rehearsal_counts_what_a_replay_counts(model_bundle: Path, replays, size):
    """Bytes, batches and uses, counted while it runs, are those of the replay of a trace: they are one measure."""
    job = {"bundle": str(model_bundle), "options": OPTIONS | {"expert_memory": size}, "workload": asdict(WORKLOAD)}
    with Engine.open(model_bundle, self_check=False, **job["options"]) as engine:
        slots = engine.plan.num_slots
    assert Rehearsal.from_json(run_rehearsal(job)).reads == replays(ReplaySetting(slots, "lru", "lossless", 8))


CHANGES = [
    "hobbit", "mobile:ahead=0", "cache-prior", "max-rank", "cumsum", "smoe", "skip", "lexi", "rate-distortion", "edgemoe:bits=3",
    "mcsharp:bits=3", "adapmoe:tau=0.01",
]  # fmt: skip


@pytest.mark.parametrize("change", [{"tier": 4}, {"tier": 2}, *({"policy": text} for text in CHANGES)], ids=str)
def test_what_changes_answers_is_rehearsed_to_the_byte(calibrated_bundle, replays, change):
    """A measurement reads what its rehearsal read, whatever the policy; the trace of other answers does not tell it."""
    job = {"bundle": str(calibrated_bundle), "workload": asdict(WORKLOAD)}
    job["options"] = OPTIONS | {"expert_memory": "5MiB"} | change
    told, measured = Rehearsal.from_json(run_rehearsal(job)), measure(job)
    assert told.reads.bytes_per_token == pytest.approx(measured["bytes_per_token"]) != 0
    assert told.reads.batches_per_token > 0 < sum(told.reads.uses.values())
    assert replays(ReplaySetting(60, "lru", change.get("policy", "lossless"), change.get("tier", 8))) is None


def test_hints_read_ahead_change_no_use(calibrated_bundle):
    """What MoBiLE reads ahead lands when the drive gives it, or is withdrawn: bytes follow the drive (ADR 75), uses do not."""
    job = {"bundle": str(calibrated_bundle), "workload": asdict(WORKLOAD)}
    told = []
    for policy in ("mobile", "mobile:ahead=0"):
        job["options"] = OPTIONS | {"expert_memory": "5MiB", "policy": policy}
        told.append(Rehearsal.from_json(run_rehearsal(job)).reads)
    assert told[0].uses == told[1].uses
    assert told[0].bytes_per_token > 0


def test_every_policy_that_changes_answers_is_rehearsed():
    assert {text.partition(":")[0] for text in CHANGES} == set(POLICIES) - {"lossless"}


def test_a_rehearsal_tells_what_is_lost(model_bundle, tmp_path):
    options = OPTIONS | {"expert_memory": "5MiB"}
    job = {"bundle": str(model_bundle), "workload": asdict(WORKLOAD), "reference_tokens": [*range(20, 40)]}
    job["reference"] = str(tmp_path / "logits.npy")
    write_reference(job | {"options": options})
    same, other = (run_rehearsal(job | {"options": options | change})["kld"] for change in ({}, {"policy": "skip"}))
    assert (same, measure(job | {"options": options | {"policy": "skip"}})["kld"]) == (0.0, other)
    assert other > 0


def test_tokens_that_read_nothing_are_found_in_a_small_cache(model_bundle):
    with Engine.open(model_bundle, self_check=False, **OPTIONS, expert_memory="6MiB") as engine:
        assert engine.plan.num_slots < engine.plan.all_experts
        whole = speeds.measure(engine, 7, 12)
        assert engine.parts.cache.counters.bytes_read > 0
    assert all(whole[name] > 0 for name in ("trunk_ms", "experts_ms", "other_ms"))


def test_a_cache_below_one_tokens_experts_is_measured_by_parts(model_bundle):
    with Engine.open(model_bundle, self_check=False, **OPTIONS, expert_memory="1MiB") as engine:
        assert engine.plan.num_slots < 2 * engine.plan.working_set
        assert resident_token_ms(engine, 7, 12, 0.1) is None
        parts = speeds.measure(engine, 7, 12)
    assert parts["other_ms"] is None
    assert parts["experts_ms"] > 0


def test_a_measurement_times_tokens_that_read_nothing_behind_its_requests(model_bundle):
    job = {"bundle": str(model_bundle), "options": OPTIONS | {"expert_memory": "6MiB"}, "workload": asdict(WORKLOAD)}
    found, other = measure(job | {"resident": True}), measure(job)
    assert found["resident_ms"].keys() >= {"trunk", "experts", "other"}
    assert all(spent >= 0 for spent in found["resident_ms"].values())
    assert found["resident_ms"]["trunk"] > 0 < found["resident_ms"]["experts"]
    assert other["resident_ms"] is None
    assert [found[name] for name in ("digest", "bytes_per_token", "hit_rate")] == [
        other[name] for name in ("digest", "bytes_per_token", "hit_rate")
    ]
    small = job["options"] | {"expert_memory": "1MiB"}
    assert measure(job | {"options": small, "resident": True})["resident_ms"] is None, "no token fits"


def test_a_base_is_a_candidate_where_it_fits(calibrated_bundle, tmp_path):
    """As a policy of its own beside others: none of them is given an option that it refuses."""
    options = OPTIONS | {"expert_memory": "8MiB"}
    job = {"bundle": str(calibrated_bundle), "options": options, "workload": asdict(WORKLOAD)}
    texts = [[*prompt, *prompt] for prompt in WORKLOAD.prompts]
    record_trace(job | {"texts": texts, "trace": str(tmp_path / "t")})
    with Engine.open(calibrated_bundle, self_check=False, **options) as engine:
        slots = engine.plan.num_slots
        calibration = read_calibration(calibrated_bundle, engine.spec)
    replays = Replays(Trace(tmp_path / "t"), WORKLOAD, 8, calibration)
    for policy in LossAllowed(0.05).policies():
        assert replays.can(ReplaySetting(slots, "lru", policy, 8)), policy
        measured = measure(job | {"options": options | {"policy": policy}})
        assert measured["tok_s"][0] > 0
    (base, *_) = LossAllowed(0.05).policies()
    assert not replays.can(ReplaySetting(slots // 4, "lru", base, 8)), "every expert at its lowest tier does not fit"
