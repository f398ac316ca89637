"""Policies in the running engine: neutral ones give lossless tokens, the others count what they change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import MODEL
from policy_cases import NEUTRAL

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.bundle.manifest_file import read
from edge_runtime.policy.base import Decision, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching

TEXT = (MODEL / "heldout_python.txt").read_text()
# what is read ahead depends on the drive and the clock, and here reads are counted
OPTIONS = {"tier": 8, "context": 256, "memory": "2GiB", "self_check": False, "prefetch": "off"}


@pytest.fixture(scope="module")
def reference(model_bundle):
    with Engine.open(model_bundle, **OPTIONS) as engine:
        ids = engine.tokenizer.encode(TEXT)[:24]
        return ids, engine.logits(ids, chunk=1), engine.generate(ids, SamplingParams(max_tokens=12)).token_ids


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_neutral_parameters_give_lossless_logits_and_tokens(model_bundle, reference, name):
    ids, logits, tokens = reference
    budget = 20 * read(model_bundle).layout.tier_bytes(8)
    with Engine.open(model_bundle, policy=NEUTRAL[name], expert_memory=budget, eviction="lcu", **OPTIONS) as engine:
        # what earlier requests left behind must not matter
        engine.generate(engine.tokenizer.encode(TEXT[500:900])[:32], SamplingParams(max_tokens=3))
        assert (engine.logits(ids, chunk=1) == logits).all()
        report = engine.generate(ids, SamplingParams(max_tokens=12))
        assert report.token_ids == tokens
        assert [report.experts[key] for key in ("substituted", "skipped", "route_changed")] == [0, 0, 0]


def run(model_bundle, policy: str, slots: int = 40):
    budget = slots * read(model_bundle).layout.tier_bytes(8)
    with Engine.open(model_bundle, policy=policy, expert_memory=budget, **OPTIONS) as engine:
        ids = np.array(engine.tokenizer.encode(TEXT)[:40], np.int32)
        report = engine.generate(ids, SamplingParams(max_tokens=24, ignore_eos=True))
        peak = engine.parts.cache.residents.ledger.touched_bytes
        assert peak <= budget
        return report.experts


def test_hobbit_reads_fewer_bytes_and_says_what_it_changed(model_bundle):
    lossless, lossy = run(model_bundle, "lossless"), run(model_bundle, "hobbit:t1=0.5,t2=0.9")
    assert lossy["bytes_read"] < lossless["bytes_read"]
    assert lossy["substituted"] > 0
    assert lossy["skipped"] > 0
    assert lossy["by_tier"]["2"] > 0
    assert lossless["substituted"] == lossless["skipped"] == lossless["truncated"] == 0


def test_results_depend_on_decisions_not_on_where_experts_lie(model_bundle):
    """A policy that asks for two tiers in a fixed pattern gives the same logits from any budget."""
    out = [fixed_pattern(model_bundle, slots) for slots in (5, 50, 256)]
    assert (out[0] == out[1]).all()
    assert (out[0] == out[2]).all()


def fixed_pattern(model_bundle, slots: int) -> np.ndarray:
    budget = slots * read(model_bundle).layout.tier_bytes(8)
    with (
        Engine.open(model_bundle, policy="hobbit:low=2", expert_memory=budget, **OPTIONS) as engine,
        engine.deciding_with(Unaware(engine.parts.active.policy)),
    ):
        return engine.logits(engine.tokenizer.encode(TEXT)[:40], chunk=1)


class Unaware(Watching):
    """Decides as if nothing were resident."""

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        return super().decide(layer_idx, routing, Nothing())


class Nothing:
    """A view on which nothing is resident, so that decisions do not depend on the cache."""

    def resident_tiers(self, layer_idx: int) -> np.ndarray:
        return np.zeros(32, np.uint8)


def test_mobile_falls_back_and_prefetches(model_bundle):
    always, never = run(model_bundle, "mobile:threshold=1"), run(model_bundle, "mobile:threshold=0")
    assert always["fallbacks"] >= 20
    assert always["skipped"] == 0
    assert always["prefetch"]["issued"] > 0
    assert never["fallbacks"] == 0
    assert never["skipped"] > 0
    assert never["bytes_read"] < always["bytes_read"]


def test_mobile_keeps_its_rate_whatever_the_signal_and_repeats_a_text(model_bundle):
    for signal, rate in (("confidence", 0.2), ("margin", 0.35), ("entropy", 0.1)):
        policy = f"mobile:fallbacks={rate},signal={signal}"
        with Engine.open(model_bundle, policy=policy, expert_memory="4MiB", **OPTIONS) as engine:
            ids = engine.tokenizer.encode(TEXT * 3)[:150]
            first = engine.logits(ids, chunk=1)
            fallbacks = engine.parts.cache.counters.fallbacks
            assert 0.5 * rate < fallbacks / len(ids) < 1.4 * rate, signal
            np.testing.assert_array_equal(engine.logits(ids, chunk=1), first, err_msg="what ran before is forgotten")
            assert engine.parts.cache.counters.fallbacks == 2 * fallbacks


def test_cache_prior_misses_less(model_bundle):
    lossless, biased = run(model_bundle, "lossless"), run(model_bundle, "cache-prior:lambda=0.5")
    assert biased["misses"] < 0.8 * lossless["misses"]
    assert biased["route_changed"] > 0


def test_calibrated_thresholds_give_the_shares_asked_for(model_bundle, capsys):
    text = str(MODEL / "heldout_python.txt")
    common = [str(model_bundle), "--text", text, "--tokens", "100", "--json", "--no-self-check", "--context", "256"]
    assert main(["calibrate", *common, "--fallback-rate", "0.25"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 100
    assert len(found["skip"].split("/")) == 8
    for policy in (found["hobbit"], found["mobile"]["confidence"], found["skip"]):
        assert main(["eval", *common, "--policy", policy, "--baseline-tier", "8"]) == 0
        experts = json.loads(capsys.readouterr().out)["experts"]
        if policy.startswith("mobile"):  # fallbacks change what later tokens see, so the rate is close, not exact
            assert 0.15 < experts["fallbacks"] / 100 < 0.4
        assert experts["skipped"] > 0
