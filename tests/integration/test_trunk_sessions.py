"""State of the ONNX Runtime trunk: buckets, limits, caches side by side, dropped chunks, and what it refuses."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from random_weights import RandomWeights
from specs import layer, model_spec
from state_dict_weights import relative_error, run_chunk, synthetic_experts
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import BundleError, DeviceError, RequestError

LAYERS = (layer(shared=40), layer(window=300, dense=72))
SIZES = {
    "vocab_size": 97, "hidden": 64, "num_heads": 4, "num_kv_heads": 2, "max_context": 4096, "num_experts": 8,
    "qk_norm": "per_head", "shared_gate": True,
}  # fmt: skip
SPEC = model_spec(*LAYERS, **SIZES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle")
    write_trunk(SPEC, RandomWeights(SPEC), out, "fp32")
    return out


@pytest.fixture
def trunk(bundle: Path) -> OrtTrunk:
    return OrtTrunk(bundle, SPEC, threads=1, max_chunk=300)


def _tokens(count: int, seed: int = 0) -> I32:
    return np.random.default_rng(seed).integers(0, SPEC.vocab_size, count).astype(np.int32)


def _feed(trunk: OrtTrunk, kv: HostKVCache, tokens: I32) -> F32:
    return run_chunk(trunk, SPEC, kv, tokens, synthetic_experts)


def test_growing_buckets_change_nothing(trunk: OrtTrunk) -> None:
    tokens, kv = _tokens(1150), trunk.new_kv_cache(1150)
    lengths, start, logits, buckets = (250, 6, 1, 1, 254, 1, 300, 300, 37), 0, [], set()
    for length in lengths:
        logits.append(_feed(trunk, kv, tokens[start : start + length]))
        start += length
        buckets.add(kv.bucket)
    assert start == 1150
    assert buckets == {256, 512, 1024, 1150}
    reference = ReferenceTrunk(SPEC, RandomWeights(SPEC), max_chunk=1150)
    whole = run_chunk(reference, SPEC, reference.new_kv_cache(1150), tokens, synthetic_experts)
    assert relative_error(np.concatenate(logits), whole) < 5e-6


def test_a_full_context_is_a_request_error_and_the_cache_stays_usable(trunk: OrtTrunk) -> None:
    tokens, kv, fresh = _tokens(20), trunk.new_kv_cache(20), trunk.new_kv_cache(20)
    _feed(trunk, kv, tokens[:15])
    with pytest.raises(RequestError, match=r"15 tokens.* 6 more"):
        trunk.begin(_tokens(6), kv)
    last = _feed(trunk, kv, tokens[15:])
    assert kv.length == 20
    with pytest.raises(RequestError, match="context"):
        trunk.begin(tokens[:1], kv)
    _feed(trunk, fresh, tokens[:15])
    np.testing.assert_array_equal(last, _feed(trunk, fresh, tokens[15:]))


@pytest.mark.parametrize("tokens", [[], [0] * 301, [97], [-1]])
def test_impossible_chunks_are_request_errors(trunk: OrtTrunk, tokens: list[int]) -> None:
    with pytest.raises(RequestError):
        trunk.begin(np.array(tokens, np.int32), trunk.new_kv_cache(1000))


def test_two_caches_do_not_see_each_other(trunk: OrtTrunk) -> None:
    chunks = [(30, 1), (1, 1), (1, 9), (255, 1), (1, 1), (1, 1)]
    together: tuple[list[F32], ...] = ([], [])
    caches = (trunk.new_kv_cache(600), trunk.new_kv_cache(300))
    tokens, starts = (_tokens(400, 1), _tokens(400, 2)), [0, 0]
    for lengths in chunks:
        for i, length in enumerate(lengths):
            together[i].append(_feed(trunk, caches[i], tokens[i][starts[i] : starts[i] + length]))
            starts[i] += length
    for i in range(2):
        kv, start = trunk.new_kv_cache(caches[i].context), 0
        for lengths, expected in zip(chunks, together[i], strict=True):
            np.testing.assert_array_equal(_feed(trunk, kv, tokens[i][start : start + lengths[i]]), expected)
            start += lengths[i]


def test_a_chunk_that_fails_half_way_leaves_no_trace(trunk: OrtTrunk) -> None:
    first, dropped, next_ = _tokens(12, 1), _tokens(9, 2), _tokens(3, 3)
    kv, clean = trunk.new_kv_cache(64), trunk.new_kv_cache(64)
    _feed(trunk, kv, first)
    chunk = trunk.begin(dropped, kv)
    trunk.run_layer(chunk, 0, None)
    after = _feed(trunk, kv, next_)
    _feed(trunk, clean, first)
    np.testing.assert_array_equal(after, _feed(trunk, clean, next_))


def test_layers_of_several_sequences_may_be_interleaved(trunk: OrtTrunk) -> None:
    caches = [trunk.new_kv_cache(64) for _ in range(6)]
    for i, kv in enumerate(caches):
        _feed(trunk, kv, _tokens(5 + i % 3, i % 3))
    inputs = [_tokens(1, 10), _tokens(7, 11), _tokens(1, 12)]
    alone = [_feed(trunk, kv, ids) for kv, ids in zip(caches[:3], inputs, strict=True)]
    chunks = [trunk.begin(ids, kv) for kv, ids in zip(caches[3:], inputs, strict=True)]
    expert_outs: list[F32 | None] = [None] * 3
    for i, one in enumerate(SPEC.layers):
        outs = [trunk.run_layer(chunk, i, expert_out) for chunk, expert_out in zip(chunks, expert_outs, strict=True)]
        for n, out in enumerate(outs):
            expert_outs[n] = None
            if one.sparse:
                assert out is not None
                expert_outs[n] = synthetic_experts(i, out.x, out.router_logits) + trunk.run_shared(chunks[n], i)
    for chunk, expert_out, expected in zip(chunks, expert_outs, alone, strict=True):
        np.testing.assert_array_equal(trunk.head(chunk, expert_out, slice(None)), expected)
        trunk.commit(chunk)
    assert [kv.length for kv in caches[:3]] == [kv.length for kv in caches[3:]]


def test_a_second_long_chunk_takes_the_place_of_the_first(trunk: OrtTrunk) -> None:
    first = trunk.begin(_tokens(5), trunk.new_kv_cache(64))
    trunk.run_layer(first, 0, None)
    second = trunk.begin(_tokens(6), trunk.new_kv_cache(64))
    with pytest.raises(AssertionError, match="took its place"):
        trunk.run_layer(first, 1, None)
    trunk.run_layer(second, 0, None)


def test_truncated_and_reset_caches_go_on_as_if_new(trunk: OrtTrunk) -> None:
    kv, clean, tokens = trunk.new_kv_cache(600), trunk.new_kv_cache(600), _tokens(400)
    expected = _feed(trunk, clean, tokens[:40])[30:]
    _feed(trunk, kv, tokens[:30])
    _feed(trunk, kv, tokens[100:400])
    kv.truncate(30)
    assert relative_error(_feed(trunk, kv, tokens[30:40]), expected) < 5e-6
    kv.reset()
    np.testing.assert_array_equal(_feed(trunk, kv, tokens[:40])[30:], expected)


def test_head_returns_the_chosen_rows_in_a_new_array(trunk: OrtTrunk) -> None:
    kv = trunk.new_kv_cache(64)
    chunk = trunk.begin(_tokens(10), kv)
    out = trunk.run_layer(chunk, 0, None)
    assert out is not None
    assert (out.x.shape, out.router_logits.shape) == ((10, 64), (10, 8))
    assert trunk.run_layer(chunk, 1, trunk.run_shared(chunk, 0)) is None
    every, last = trunk.head(chunk, None, slice(None)), trunk.head(chunk, None, slice(-1, None))
    assert (every.shape, last.shape) == ((10, 97), (1, 97))
    assert relative_error(last, every[-1:]) < 1e-6
    kept = last.copy()
    trunk.head(chunk, None, slice(0, 1))
    np.testing.assert_array_equal(kept, last)


def test_without_onnx_runtime_the_error_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match="pip install onnxruntime"):
        OrtTrunk(bundle, SPEC, threads=1, max_chunk=8)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "missing", "no data"])
def test_a_damaged_graph_is_named(bundle: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    graph = copy / "trunk" / "layer_001.onnx"
    if damage == "missing":
        graph.unlink()
    elif damage == "no data":
        graph.with_suffix(".data").unlink()
    else:
        graph.write_bytes(b"\x08" * 100 if damage == "garbage" else graph.read_bytes()[:-50])
    with pytest.raises(BundleError, match=r"trunk/layer_001\.onnx"):
        OrtTrunk(copy, SPEC, threads=1, max_chunk=8)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_experts": 9}, "router_logits"), ({"num_kv_heads": 4}, "past_k"), ({"vocab_size": 90}, "embed")],
)
def test_graphs_of_another_model_are_refused(bundle: Path, change: dict[str, int], named: str) -> None:
    with pytest.raises(BundleError, match=named):
        OrtTrunk(bundle, model_spec(*LAYERS, **(SIZES | change)), threads=1, max_chunk=8)
