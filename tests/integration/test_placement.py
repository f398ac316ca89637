"""Invariant 1: placement never changes results. Logits are compared bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine, SamplingParams
from edge_runtime.bundle.manifest_file import read

TEXT = (MODEL / "heldout_python.txt").read_text()[:900]


def slot_memory(bundle: Path, tier: int, slots: int) -> int:
    return slots * read(bundle).layout.tier_bytes(tier)


def logits(bundle: Path, *, chunk: int | None = None, **options) -> np.ndarray:
    with Engine.open(bundle, **({"tier": 4, "context": 512, "memory": "2GiB"} | options)) as engine:
        ids = engine.tokenizer.encode(TEXT)[:96]
        out = engine.logits(ids, chunk=chunk)
        again = engine.logits(ids, chunk=chunk)
        assert (out == again).all(), "a warm cache changed the logits"
        return out


@pytest.mark.parametrize("tier", [2, 4, 8, 16])
def test_logits_do_not_depend_on_the_budget(model_bundle, tier):
    manifest = read(model_bundle)
    total = manifest.model.num_layers * manifest.model.num_experts
    reference = logits(model_bundle, tier=tier, expert_memory=slot_memory(model_bundle, tier, total))
    for slots in (total // 2, 40, manifest.model.top_k):
        for eviction in ("lru", "lcu"):
            budget = slot_memory(model_bundle, tier, slots)
            out = logits(model_bundle, tier=tier, expert_memory=budget, eviction=eviction)
            assert (out == reference).all(), (slots, eviction)


def test_logits_do_not_depend_on_io(model_bundle):
    few = slot_memory(model_bundle, 4, 16)
    reference = logits(model_bundle, expert_memory=few, io_threads=1, direct_io=True)
    for io_threads in (1, 8):
        for direct_io in (True, False):
            out = logits(model_bundle, expert_memory=few, io_threads=io_threads, direct_io=direct_io)
            assert (out == reference).all(), (io_threads, direct_io)


def test_logits_do_not_depend_on_compute_threads(model_bundle):
    reference = logits(model_bundle, threads=1, chunk=1)
    assert (logits(model_bundle, threads=2, chunk=1) == reference).all()


def test_greedy_tokens_do_not_depend_on_prefill_chunks(model_bundle):
    params = SamplingParams(max_tokens=32)
    with Engine.open(model_bundle, tier=8, context=512, memory="2GiB") as engine:
        ids = np.array(engine.tokenizer.encode(TEXT)[:120], np.int32)
        whole = engine.generate(ids, params).token_ids
        decoder = engine.parts.decoder
        for chunk in (1, 7, 64):
            decoder.max_chunk = chunk
            assert engine.generate(ids, params).token_ids == whole, chunk


def test_resizing_while_open_changes_memory_not_results(model_bundle):
    params = SamplingParams(max_tokens=16)
    with Engine.open(model_bundle, tier=4, context=256, memory="2GiB") as engine:
        expected = engine.generate(TEXT[:200], params).token_ids
        for slots in (8, 100, 5, 256):
            engine.resize(expert_memory=slot_memory(model_bundle, 4, slots))
            assert engine.parts.cache.nbytes <= slot_memory(model_bundle, 4, slots)
            assert engine.generate(TEXT[:200], params).token_ids == expected


def test_reused_prefix_gives_the_same_tokens(model_bundle):
    params = SamplingParams(max_tokens=12)
    with Engine.open(model_bundle, tier=8, context=512, memory="2GiB") as engine:
        first = engine.tokenizer.encode(TEXT)[:60]
        second = [*first, *engine.tokenizer.encode("\ndef main(")]
        fresh = engine.generate(second, params)
        engine.generate(first, params)
        reused = engine.generate(second, params, reuse_prefix=True)
        assert reused.token_ids == fresh.token_ids
        assert reused.timings["cached_n"] >= len(first) - 1
        assert fresh.timings["cached_n"] == 0
