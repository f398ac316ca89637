"""Every family as it is used: chunks, sequences together, little memory, look-ahead, policies, a quantised trunk."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import CONFIG_CLASSES, FAMILY_CASES, family_of, make_checkpoint
from given_text import GivenText

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.bundle.manifest_file import read
from edge_runtime.engine.job import Job, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace

pytestmark = pytest.mark.oracle
EXACT = ("--tiers", "8,bf16", "--trunk", "fp32")
IDS = np.random.default_rng(3).integers(1, 256, 150).tolist()
PROMPTS = [IDS[:40], IDS[40:43], IDS[:40] + IDS[60:75], IDS[80:145]]
GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
POLICIES = ("lossless", "hobbit", "cache-prior:lambda=0.3", "rate-distortion:max_kld=0.02")
COUNTS = ("hits", "misses", "bytes_read", "by_tier", "substituted", "skipped", "route_changed")


@pytest.fixture(params=CONFIG_CLASSES)
def checkpoint(request, shared_folder) -> Path:
    """The first case of a family."""
    case = next(case for case in FAMILY_CASES if family_of(case) == request.param)
    path = shared_folder / f"checkpoint-{case}"
    if not (path / "tokenizer.json").exists():
        make_checkpoint(case, path)
    return path


@pytest.fixture(scope="session")
def text(shared_folder) -> Path:
    """What expert losses are measured on."""
    path = shared_folder / "calibration.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and 1 + 2 is 3. " * 6)
    return path


@pytest.fixture
def bundle(checkpoint, exported, text) -> Path:
    """Several tiers, measured, with an int8 trunk."""
    return exported(checkpoint, "--tiers", "8,4,2", "--trunk", "int8", "--calibrate", str(text))


def opened(bundle: Path, **options: Any) -> Engine:
    return Engine.open(bundle, **{"memory": "1GiB", "context": 192, "threads": 1, "self_check": False} | options)


@cache
def slots_bytes(bundle: Path, count: int, tier: int = 8) -> int:
    return count * read(bundle).layout.tier_bytes(tier)


def test_chunks_of_any_length_give_the_logits_of_one_pass(checkpoint, exported):
    with opened(exported(checkpoint, *EXACT), tier="bf16") as engine:
        whole = engine.logits(IDS, chunk=len(IDS))
        for chunk in (1, 7, 64):
            found = engine.logits(IDS, chunk=chunk)
            assert np.abs(found - whole).max() <= 1e-4 * np.abs(whole).max(), chunk


def test_where_experts_are_and_what_is_read_ahead_changes_nothing(bundle):
    found, few = [], slots_bytes(bundle, read(bundle).model.top_k + 1)
    for more in ({}, {"expert_memory": few}, {"expert_memory": few, "prefetch": "lookahead:adaptive=false"}):
        with opened(bundle, policy="lossless", prefill_chunk=16, **({"prefetch": "off"} | more)) as engine:
            tokens = engine.generate(IDS[:32], GREEDY).token_ids
            found.append((tokens, engine.logits(IDS[:40], chunk=20).tobytes()))
            assert engine.parts.cache.counters.misses > 0 or not more
    assert found[0] == found[1] == found[2]


def test_sequences_together_get_the_tokens_they_get_alone(bundle):
    with opened(bundle) as engine:
        alone = [engine.generate(prompt, GREEDY).token_ids for prompt in PROMPTS]
    with opened(bundle, parallel=len(PROMPTS), expert_memory=slots_bytes(bundle, 12)) as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        assert together(scheduler) == alone
        assert together(scheduler) == alone, "after requests whose beginnings may be used again"


def together(scheduler: Scheduler) -> list[list[int]]:
    events: list[list[Any]] = [[] for _ in PROMPTS]
    for prompt, seen in zip(PROMPTS, events, strict=True):
        scheduler.begin(Job(np.array(prompt, np.int32), GREEDY, seen.append))
    while scheduler.step():
        pass
    return [[event.delta.token_id for event in seen if isinstance(event, TokenEvent)] for seen in events]


def test_drafts_change_no_logit_or_are_refused_by_name(bundle):
    """A text that is given repeats itself, so that its drafts are right; what is left is said of logits' bits."""
    spec, text = read(bundle).model, IDS[:12] * 3
    if any(not array.grows for i in range(spec.num_layers) for array in spec.state_of(i)):
        with pytest.raises(ConfigError, match="speculate: ngram cannot be used here: layer .* keeps a state"):
            opened(bundle, speculate="ngram")
        return
    found = []
    for mode, more in (("off", {}), ("ngram", {}), ("ngram", {"expert_memory": slots_bytes(bundle, spec.top_k + 2)})):
        with opened(bundle, speculate=mode, **more) as engine:
            seen: list[Any] = []
            scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
            given, params = GivenText(text, spec.vocab_size), SamplingParams(max_tokens=len(text), ignore_eos=True)
            scheduler.begin(Job(np.array(IDS[:12], np.int32), params, seen.append, constraint=given, logprobs=3))
            while scheduler.step():
                pass
        *events, outcome = seen
        found.append(events)
        assert [event.delta.token_id for event in events] == text
        assert mode == "off" or more or outcome.speculation["accepted"] > 12
    assert found[0] == found[1] == found[2]


def test_a_prefix_used_again_gives_the_same_tokens(bundle):
    with opened(bundle) as engine:
        longer = IDS[:70]
        fresh = engine.generate(longer, GREEDY)
        engine.generate(IDS[:50], GREEDY)
        again = engine.generate(longer, GREEDY, reuse_prefix=True)
        assert again.token_ids == fresh.token_ids


def test_policies_run_and_are_replayed_exactly(bundle, tmp_path, request):
    spec = read(bundle).model
    calibration = read_calibration(bundle, spec)
    assert calibration.is_measured
    for policy in POLICIES:
        folder = tmp_path / policy.partition(":")[0]
        options = {"policy": policy, "eviction": "lru", "expert_memory": slots_bytes(bundle, spec.top_k + 2)}
        with opened(bundle, prefetch="off", **options) as engine:
            record(engine, [IDS[:60]], folder)
            ran = engine.parts.cache.counters
        found = simulate(Trace(folder), ReplaySettings(spec.top_k + 2, policy, "lru", calibration=calibration)).counters
        assert {what: getattr(found, what) for what in COUNTS} == {what: getattr(ran, what) for what in COUNTS}, policy
    if (results := request.config.getoption("--family-results")) is not None:
        names = [policy.partition(":")[0] for policy in POLICIES]
        with open(results, "a") as file:
            file.write(json.dumps({"family": spec.family, "policies": names}) + "\n")


def test_an_int4_trunk_runs(checkpoint, exported):
    with opened(exported(checkpoint, "--tiers", "8", "--trunk", "int4")) as engine:
        logits = engine.logits(IDS[:20])
        assert np.isfinite(logits).all()
        assert engine.generate(IDS[:20], GREEDY).token_ids == engine.generate(IDS[:20], GREEDY).token_ids
