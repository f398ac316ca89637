"""The demo on the late backend gives the CPU backend's bits: streamed, resident, several at once, under any policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import make_checkpoint
from policy_cases import NEUTRAL

from edge_runtime import Engine, SamplingParams
from edge_runtime.engine.job import Job, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sessions import SessionPool
from late_backend import MODES, both
from late_backend.recorded import Recording, Replaying

FOX = "The quick brown fox " * 6
PROMPTS = ["Once upon a time", FOX, "import os\n" * 8, "A", FOX + "sleeps"]


@pytest.fixture(params=MODES)
def mode(request, monkeypatch):
    monkeypatch.setenv("LATE_BACKEND", request.param)
    return request.param


@pytest.fixture(scope="module")
def expected(model_bundle) -> tuple[np.ndarray, list[int]]:
    with both.opened(model_bundle, "cpu", slots=both.ALL) as engine:
        return both.logits(engine), both.tokens(engine)


@pytest.mark.parametrize("slots", [both.FEW, 40, both.ALL])
def test_logits_and_tokens_at_any_budget(model_bundle, expected, mode, slots):
    with both.opened(model_bundle, "late", slots=slots, io_threads=4) as engine:
        both.assert_same(both.logits(engine), expected[0])
        assert both.tokens(engine) == expected[1]
        assert engine.last_report().backend == "late"
        assert (engine.parts.cache.counters.evicted > 0) == (slots < both.ALL)
        # every record came through a staging buffer, and at times all of them were in use
        assert engine.parts.backend.device.ran["transfer"] == engine.parts.cache.counters.misses
        assert engine.parts.cache.space.transfers.least_room == 0


@pytest.mark.parametrize("tier", [2, 4, 16])
def test_at_other_tiers(model_bundle, tier):
    found = []
    for backend in ("cpu", "late"):
        with both.opened(model_bundle, backend, slots=20, tier=tier) as engine:
            found.append(both.logits(engine))
    both.assert_same(found[1], found[0])


def test_experts_read_ahead_change_nothing(model_bundle, expected, mode):
    with both.opened(model_bundle, "late", slots=60, prefetch="lookahead:adaptive=false") as engine:
        both.assert_same(both.logits(engine), expected[0])
        counters = engine.parts.cache.counters  # on a busy machine every one of them comes late
        assert counters.prefetch_used + counters.prefetch_late > 0
        engine.parts.cache.finish_reads()
        assert engine.parts.cache.space.transfers.room == engine.parts.config.io_threads
        assert engine.parts.backend.device.ran["look ahead"] > 0


def batch(engine: Engine) -> list[list[int]]:
    """Tokens of several requests that run at once."""
    scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
    events: list[list[Any]] = [[] for _ in PROMPTS]
    for prompt, seen in zip(PROMPTS, events, strict=True):
        ids = np.array(engine.tokenizer.encode(prompt), np.int32)
        scheduler.begin(Job(ids, SamplingParams(max_tokens=10, ignore_eos=True), seen.append))
    while scheduler.step():
        pass
    return [[event.delta.token_id for event in seen if isinstance(event, TokenEvent)] for seen in events]


@pytest.mark.parametrize("slots", [24, both.ALL])
def test_several_sequences_at_once(model_bundle, mode, slots):
    with both.opened(model_bundle, "cpu", slots=both.ALL) as engine:
        params = SamplingParams(max_tokens=10, ignore_eos=True)
        alone = [engine.generate(prompt, params).token_ids for prompt in PROMPTS]
    with both.opened(model_bundle, "late", slots=slots, parallel=len(PROMPTS)) as engine:
        assert batch(engine) == alone


def test_the_device_routes_by_itself_once_everything_is_there(model_bundle, expected, mode):
    def counts_once_everything_is_there(engine: Engine) -> Any:
        both.assert_same(both.logits(engine), expected[0])
        both.make_all_resident(engine)
        asked, before = device_ran(engine, "to_host"), engine.parts.cache.counters
        both.assert_same(both.logits(engine), expected[0])
        assert both.tokens(engine) == expected[1]
        assert device_ran(engine, "to_host") == asked, "the host asked for router logits"
        assert backend == "cpu" or device_ran(engine, "routed experts") > 0
        return vars(engine.parts.cache.counters.since(before))

    def device_ran(engine: Engine, kind: str) -> int:
        device = getattr(engine.parts.backend, "device", None)
        return 0 if device is None else device.ran[kind]

    counted = []
    for backend in ("cpu", "late"):
        with both.opened(model_bundle, backend, slots=both.ALL) as engine:
            counted.append(counts_once_everything_is_there(engine))
    assert counted[0] == counted[1], "what the device chose is counted as if the host had"
    assert counted[1]["hits"] > 0
    assert counted[1]["misses"] == 0


def test_a_policy_of_the_hosts_is_asked_although_everything_is_there(model_bundle):
    found = []
    for backend in ("cpu", "late"):
        with both.opened(model_bundle, backend, slots=both.ALL, policy="hobbit") as engine:
            found.append([both.logits(engine) for _ in range(2)][1])
            if backend == "late":
                assert engine.parts.backend.device.ran["routed experts"] == 0
    both.assert_same(found[1], found[0])


@pytest.mark.parametrize("policy", sorted(NEUTRAL))
def test_whatever_a_policy_decides_gives_the_same_numbers(calibrated_bundle, policy):
    ids = np.arange(40, dtype=np.int32) * 7 + 3
    with both.opened(calibrated_bundle, "late", slots=24, policy=policy) as engine:
        recording = Recording(engine.parts.active.policy)
        with engine.deciding_with(recording):
            found = np.concatenate([engine.logits(ids[:30], chunk=15), engine.logits(ids, chunk=1)])
        assert recording.decisions
    with both.opened(calibrated_bundle, "cpu", slots=both.ALL, policy=policy) as engine:
        replaying = Replaying(engine.parts.active.policy, recording)
        with engine.deciding_with(replaying):
            again = np.concatenate([engine.logits(ids[:30], chunk=15), engine.logits(ids, chunk=1)])
        assert replaying.is_over()
    both.assert_same(found, again)


def test_other_sizes_and_policies_while_open(model_bundle, expected):
    with both.opened(model_bundle, "late", slots=100) as engine:
        slot_bytes, memory = engine.parts.plan.slot_bytes, engine.parts.backend.memory
        for slots in (100, 40, both.ALL, 13, both.ALL, 60):
            engine.resize(expert_memory=slots * slot_bytes)
            if slots == both.ALL:  # from here on the device routes, over slots that have moved
                both.make_all_resident(engine)
            assert engine.parts.cache.num_slots == min(slots, 256)
            assert memory.nbytes <= slots * slot_bytes
            both.assert_same(both.logits(engine), expected[0])
        for policy in ("hobbit", "lossless"):
            engine.resize(expert_memory=both.ALL * slot_bytes)
            both.make_all_resident(engine)
            both.logits(engine)
            engine.reload(Reload(policy=policy))
            both.make_all_resident(engine)
            out = both.logits(engine)
        assert engine.parts.backend.device.ran["routed experts"] > 0
        both.assert_same(out, expected[0])
    assert memory.nbytes == 0, "all device memory was given back"


@pytest.mark.oracle
def test_dense_layers_and_shared_experts(exported, shared_folder, monkeypatch):
    case = "qwen2_moe_sparse_step_dynamic"
    bundle = exported(make_checkpoint(case, shared_folder / f"late-{case}"), "--tiers", "8", "--trunk", "fp32")
    ids, found = np.arange(1, 49, dtype=np.int32), []
    for backend, slots in (("cpu", both.ALL), *((mode, slots) for mode in MODES for slots in (5, both.ALL))):
        monkeypatch.setenv("LATE_BACKEND", backend)
        with both.opened(bundle, "cpu" if backend == "cpu" else "late", slots=slots, context=64) as engine:
            for _ in range(2):  # the second time the device routes, if everything fits
                found.append(np.concatenate([engine.logits(ids, chunk=12), engine.logits(ids[:20], chunk=1)]))
    for each in found[1:]:
        both.assert_same(each, found[0])


@pytest.mark.oracle
def test_networks_in_parallel_and_routers_with_norms_of_their_own(exported, shared_folder):
    """What a network in parallel gives stays on the device; looking ahead takes what the routers saw, joined."""
    bundle = exported(make_checkpoint("gemma4_text", shared_folder / "late-gemma4"), "--tiers", "8", "--trunk", "fp32")
    ids, found = np.arange(1, 49, dtype=np.int32), []
    for backend, options in (("cpu", {}), ("late", {}), ("late", {"prefetch": "lookahead:adaptive=false"})):
        with both.opened(bundle, backend, slots=12, parallel=len(PROMPTS), context=160, **options) as engine:
            logits = np.concatenate([engine.logits(ids, chunk=12), engine.logits(ids[:20], chunk=1)])
            counters = engine.parts.cache.counters
            found.append((logits, batch(engine), counters.prefetch_used + counters.prefetch_late))
    for each in found[1:]:
        both.assert_same(each[0], found[0][0])
        assert each[1] == found[0][1]
    assert [each[2] > 0 for each in found] == [False, False, True]


@pytest.mark.oracle
def test_recurrent_states_and_prompts_that_go_on_from_snapshots(exported, shared_folder):
    """Prompts begin alike, and a prompt goes on from the one before: both from states that were kept."""
    bundle = exported(make_checkpoint("qwen3_next", shared_folder / "late-qwen3-next"), "--tiers", "8")
    ids, four, found = np.arange(1, 101, dtype=np.int32), SamplingParams(max_tokens=4, ignore_eos=True), []
    lengths = (80, 100, 90)
    for backend in ("cpu", "late"):
        with both.opened(bundle, backend, slots=12, parallel=len(PROMPTS), context=160) as engine:
            runs = [engine.generate(ids[:length], four, reuse_prefix=True) for length in lengths]
            kept = [length - run.timings["prompt_n"] for length, run in zip(lengths, runs, strict=True)]
            tokens = [run.token_ids for run in runs]
            found.append((engine.logits(ids, chunk=40).tobytes(), batch(engine), tokens, kept))
    assert found[0] == found[1]
    assert found[0][3] == [0, 80 - 16, 100 - 16]
