"""Layers in native calls: logits, counts and residents of the loop in Python, bit for bit."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import MODEL
from families import FAMILY_CASES, make_checkpoint
from rooms_made import RoomsMade
from stores import InOrder

from edge_runtime import Engine, SamplingParams
from edge_runtime.bundle.manifest_file import read
from edge_runtime.engine import assembly, forward_pass
from edge_runtime.engine.token_calls import TokenPass
from edge_runtime.experts.direct_reads import DirectReads
from edge_runtime.experts.store.file_store import FileExpertStore

TEXT = (MODEL / "heldout_python.txt").read_text()[:1200]
UNTIMED = ("read_busy_ns", "stall_ns", "read_ns", "read_buckets")
AHEAD = "lookahead:depth=1,adaptive=false"


class Ran(NamedTuple):
    """What is the same however a layer runs."""

    logits: bytes
    counters: dict[str, Any]
    tiers: bytes
    slots: bytes
    scores: bytes


def python_calls_per_token(bundle, ids, **options: Any) -> float:
    """Count what is called in Python, C functions included, by a token behind some others."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with Engine.open(bundle, memory="2GiB", self_check=False, context=192, threads=1, **options) as engine:
        decoder, kv = engine.parts.decoder, engine.parts.trunk.new_kv_cache(192)
        decoder.prefill(np.array(ids[:30], np.int32), kv)
        tokens = [np.array([token], np.int32) for token in ids[30:50]]
        sys.setprofile(count)
        try:
            for token in tokens:
                decoder.forward(token, kv, slice(0, 1))
        finally:
            sys.setprofile(None)
        assert engine.parts.cache.counters.evicted > 0
    return calls / len(tokens)


def ran(bundle, ids, monkeypatch, *, native: bool, **options: Any) -> Ran:
    """Decode a given text token by token from an empty cache, over a drive that is never late."""
    layers: list[int] = []
    with monkeypatch.context() as patch:
        if native:
            for name in ("run", "serve"):
                call = getattr(TokenPass, name)
                patch.setattr(
                    TokenPass, name, lambda self, *args, call=call: layers.append(args[0]) or call(self, *args)
                )
        else:
            patch.setattr(forward_pass, "token_pass_of", lambda *_: None)
            patch.setattr(assembly, "FileExpertStore", lambda *args, **more: InOrder(FileExpertStore(*args, **more)))
        with Engine.open(bundle, memory="2GiB", self_check=False, context=192, threads=1, **options) as engine:
            cache = engine.parts.cache
            if native:
                assert isinstance(cache.pool.reader, DirectReads)
                cache.pool.reader.native.in_order = True
            logits = engine.logits(ids, chunk=1)
            cache.finish_reads()
            table, counters = cache.residents.table, asdict(cache.counters)
            found = [table.resident_tiers(layer) for layer in range(table.num_layers)]
            slots = b"".join(table.slots_of(layer).tobytes() for layer in range(table.num_layers))
            scores = cache.residents.rule.scores(np.arange(len(found) * table.num_experts), 0)
            assert counters["misses"] > 0 or cache.residents.base_layers
            assert sum(counters["read_buckets"]) > 0
    if native:
        passes = len(ids) + counters["fallbacks"]
        assert len(layers) == passes * len(engine.parts.spec.sparse_layers), "every layer of every token"
    for name in UNTIMED:
        del counters[name]
    return Ran(logits.tobytes(), counters, b"".join(row.tobytes() for row in found), slots, scores.tobytes())


def check(bundle, ids, monkeypatch, **options: Any) -> Ran:
    in_python, in_native = (ran(bundle, ids, monkeypatch, native=native, **options) for native in (False, True))
    for name, one, other in zip(("logits", "counters", "tiers", "slots", "scores"), in_python, in_native, strict=True):
        assert one == other, (name, options)
    return in_python


@pytest.mark.parametrize("prefetch", ["off", AHEAD, "lookahead:depth=3,adaptive=false"])
@pytest.mark.parametrize("slots", [9, 40, 90, 256])
def test_everything_is_as_in_python(calibrated_bundle, monkeypatch, slots, prefetch):
    size = read(calibrated_bundle).layout.tier_bytes(4)
    ids = list(TEXT.encode()[:120])
    counters = check(
        calibrated_bundle, ids, monkeypatch, tier=4, eviction="next-use", expert_memory=slots * size, prefetch=prefetch
    ).counters
    assert (counters["evicted"] > 0) == (slots < 256)
    assert (counters["prefetch_issued"] > 0) == (prefetch != "off" and slots < 256)


@pytest.mark.parametrize("eviction", ["lru", "lcu", "lfru", "mdc", "rate-distortion", "layer-sizes"])
def test_other_rules_are_asked_alike(calibrated_bundle, monkeypatch, eviction):
    size = read(calibrated_bundle).layout.tier_bytes(4)
    ids = list(TEXT.encode()[:80])
    check(calibrated_bundle, ids, monkeypatch, tier=4, eviction=eviction, expert_memory=40 * size, prefetch=AHEAD)


@pytest.mark.parametrize("prefetch", ["off", "lookahead:depth=2,adaptive=false", "statistical:adaptive=false"])
@pytest.mark.parametrize(
    "policy",
    [
        "hobbit", "hobbit:t1=0.4,t2=0.8", "cache-prior:lambda=0.3,admit=2", "max-rank", "cumsum", "skip", "smoe",
        "mobile:fallbacks=0.4,window=32,signal=margin,ahead=3", "rate-distortion:max_kld=0.01", "adapmoe", "lexi",
        "rate-distortion:max_kld=0.01,base=true", "lossless",
    ],
)  # fmt: skip
def test_decisions_are_served_as_in_python(calibrated_bundle, monkeypatch, policy, prefetch):
    """Lower tiers, experts left out, hints, reads in the background, second passes, and what is shown of residency."""
    size = read(calibrated_bundle).layout.tier_bytes(8)
    slots = 120 if "base" in policy else 40
    check(
        calibrated_bundle, list(TEXT.encode()[:50]), monkeypatch,
        tier=8, policy=policy, expert_memory=slots * size, prefetch=prefetch,
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["hobbit:t1=0.4,t2=0.8", "cache-prior:lambda=0.3", "mobile:threshold=0", "lossless"])
@pytest.mark.parametrize("prefetch", ["off", AHEAD])
def test_a_decision_costs_python_nothing(calibrated_bundle, policy, prefetch):
    """A layer is one call, whoever decides: what Python does a token does not grow with what a policy does a layer."""
    size = read(calibrated_bundle).layout.tier_bytes(8)
    options = {"tier": 8, "expert_memory": 40 * size, "prefetch": prefetch}
    found, least = (
        python_calls_per_token(calibrated_bundle, list(TEXT.encode()), policy=each, **options)
        for each in (policy, "lossless")
    )
    assert found < 1.15 * least


@pytest.mark.parametrize("prefetch", ["off", AHEAD])
def test_memory_cut_for_two_tiers_is_filled_alike(calibrated_bundle, monkeypatch, prefetch):
    """The policy in force reads lower tiers, so that there are planes; requests of their own follow the router."""
    size = read(calibrated_bundle).layout.tier_bytes(8)
    ids = list(TEXT.encode()[:100])
    lossless = Engine.logits

    def mixed(engine, ids, *, chunk):
        first = lossless(engine, ids[:40], chunk=1)
        with engine.deciding_with(engine.parts.active.make("lossless")):
            return np.concatenate([first, lossless(engine, ids[40:], chunk=1)])

    options = {"tier": 8, "policy": "hobbit", "expert_memory": 30 * size, "prefetch": prefetch, "eviction": "next-use"}
    found = []
    for native in (False, True):
        with monkeypatch.context() as patch:
            if not native:
                patch.setattr(forward_pass, "token_pass_of", lambda *_: None)
                patch.setattr(assembly, "FileExpertStore", lambda *a, **k: InOrder(FileExpertStore(*a, **k)))
            with Engine.open(
                calibrated_bundle, memory="2GiB", self_check=False, context=192, threads=1, **options
            ) as engine:
                if native:
                    engine.parts.cache.pool.reader.native.in_order = True
                logits = mixed(engine, ids, chunk=1)
                counters = asdict(engine.parts.cache.counters)
        found.append((logits.tobytes(), {k: v for k, v in counters.items() if k not in UNTIMED}))
    assert found[0] == found[1]
    assert found[0][1]["upgrades"] > 0


@pytest.mark.parametrize("eviction", ["lru", "next-use"])
@pytest.mark.parametrize("tier", [4, 8])
def test_so_is_memory_whose_units_keep_their_size(large_bundle, monkeypatch, tier, eviction):
    """Experts from 256 KiB on: some go although bytes enough are free. Logits are those without reads ahead."""
    ids, memory = list(TEXT.encode()[:100]), 20 * read(large_bundle).layout.tier_bytes(tier)
    options = {"tier": tier, "policy": "hobbit:t1=0.6,t2=0.95", "eviction": eviction, "expert_memory": memory}
    without = check(large_bundle, ids, monkeypatch, **options, prefetch="off")
    rooms = RoomsMade(monkeypatch)
    for prefetch in (AHEAD, "lookahead:depth=3,adaptive=false"):
        found = check(large_bundle, ids, monkeypatch, **options, prefetch=prefetch)
        assert found.logits == without.logits
        assert min(found.counters["by_tier"][each] for each in (2, tier)) > 0
        assert found.counters["prefetch_issued"] > 0
    assert rooms.despite_free_bytes > 0


@pytest.mark.oracle
@pytest.mark.parametrize(
    "family", ["gpt_oss", "deepseek_v2", "gemma4_text", "qwen2_moe", "nemotron_h", "phimoe", "lfm2_moe"]
)
def test_families_with_parts_of_their_own(family, shared_folder, exported, monkeypatch):
    """Dense layers, shared experts beside or in parallel, biases of routers, norms of their own, recurrent states."""
    case = next(case for case in FAMILY_CASES if case.startswith(family))
    checkpoint = shared_folder / f"checkpoint-{case}"
    if not (checkpoint / "tokenizer.json").exists():
        make_checkpoint(case, checkpoint)
    bundle = exported(checkpoint, "--tiers", "8,4,2", "--trunk", "int8")
    spec = read(bundle)
    ids = np.random.default_rng(3).integers(1, 256, 40).tolist()
    check(
        bundle,
        ids,
        monkeypatch,
        tier=8,
        expert_memory=(spec.model.top_k + 1) * spec.layout.tier_bytes(8),
        prefetch=AHEAD,
    )


def test_text_does_not_depend_on_when_reads_land(calibrated_bundle):
    """As it is used: reads in no order, some given up, threads, and look-ahead that judges itself."""
    size = read(calibrated_bundle).layout.tier_bytes(4)
    found = set()
    for more in (
        {},
        {"prefetch": "off"},
        {"prefetch": AHEAD},
        {"io_threads": 1, "prefetch": AHEAD},
        {"expert_memory": 12 * size},
    ):
        options = {
            "tier": 4,
            "expert_memory": 40 * size,
            "prefetch": "lookahead",
            "context": 192,
            "self_check": False,
        } | more
        with Engine.open(calibrated_bundle, memory="2GiB", **options) as engine:
            found.add(tuple(engine.generate("def main(", SamplingParams(max_tokens=80, ignore_eos=True)).token_ids))
    assert len(found) == 1
