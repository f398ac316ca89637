"""The KV cache's bookkeeping, and the mask that hides what is not in use."""

from __future__ import annotations

import numpy as np
import pytest
from specs import layer, model_spec

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache, bucket_for
from edge_runtime.backends.cpu.trunk.mask import HIDDEN, fill_mask
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import RequestError
from edge_runtime.base.spec import StateArray

LAYERS, HEADS, DIM = 2, 3, 4
ARRAYS = [[StateArray("k", (HEADS, DIM), True), StateArray("v", (HEADS, DIM), True)]] * LAYERS


def _chunk(rng: np.random.Generator, tokens: int) -> F32:
    return rng.standard_normal((LAYERS, 2, 1, HEADS, tokens, DIM), dtype=np.float32)


def _append(kv: HostKVCache, chunk: F32) -> None:
    kv.require(chunk.shape[4])
    for layer_idx, new in enumerate(chunk):
        kv.write(layer_idx, new)
    kv.advance(chunk.shape[4])


def test_buckets_grow_in_steps_and_stay_within_the_context() -> None:
    sizes = [1, 256, 257, 513, 1024, 1025, 1537, 4096, 4097]
    assert [bucket_for(n, 1 << 20) for n in sizes] == [256, 256, 512, 1024, 1024, 1536, 2048, 4096, 4608]
    assert [bucket_for(n, 300) for n in (1, 256, 257, 300)] == [256, 256, 300, 300]
    assert bucket_for(1, 40) == 40


def test_tokens_survive_every_growth() -> None:
    rng = np.random.default_rng(0)
    kv, parts = HostKVCache(ARRAYS, 1300), []
    for tokens in (250, 7, 1, 300, 500, 240):
        parts.append(_chunk(rng, tokens))
        _append(kv, parts[-1])
        expected = np.concatenate(parts, axis=4)
        for layer_idx in range(LAYERS):
            for which, past in enumerate(kv.past(layer_idx)):
                assert past.shape == (1, HEADS, kv.bucket, DIM)
                assert past.flags.c_contiguous
                np.testing.assert_array_equal(past[:, :, : kv.length], expected[layer_idx, which])
                assert np.isfinite(past).all()
    assert (kv.length, kv.bucket) == (1298, 1300)


def test_uncommitted_tokens_do_not_count() -> None:
    rng = np.random.default_rng(1)
    kv = HostKVCache(ARRAYS, 64)
    kept, dropped, next_ = _chunk(rng, 5), _chunk(rng, 9), _chunk(rng, 3)
    _append(kv, kept)
    kv.require(9)
    kv.write(0, dropped[0])
    assert kv.length == 5
    _append(kv, next_)
    np.testing.assert_array_equal(kv.past(0)[0][:, :, :8], np.concatenate((kept, next_), 4)[0, 0])


def test_overflow_names_the_numbers_and_leaves_the_cache_usable() -> None:
    rng = np.random.default_rng(2)
    kv = HostKVCache(ARRAYS, 20)
    _append(kv, _chunk(rng, 18))
    with pytest.raises(RequestError, match=r"18 tokens.* 3 more.* 20"):
        kv.require(3)
    _append(kv, _chunk(rng, 2))
    assert kv.length == kv.context == 20


def test_truncate_and_reset() -> None:
    kv = HostKVCache(ARRAYS, 600)
    _append(kv, _chunk(np.random.default_rng(3), 400))
    kv.truncate(100)
    assert kv.length == 100
    with pytest.raises(RequestError):
        kv.truncate(101)
    kv.reset()
    assert (kv.length, kv.bucket) == (0, 256)


def test_bytes_for_is_what_is_reserved() -> None:
    spec = model_spec(*[layer()] * LAYERS, num_heads=6, num_kv_heads=HEADS, head_dim=DIM)
    assert HostKVCache.bytes_for(spec, 300) == HostKVCache(ARRAYS, 300).nbytes


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("length", "tokens", "slots"), [(0, 5, 8), (6, 1, 8), (8, 4, 8), (3, 6, 16)])
def test_mask_against_its_definition(length: int, tokens: int, slots: int, window: int | None) -> None:
    mask = np.full((tokens, slots + tokens), np.nan, np.float32)
    fill_mask(mask, length, window)
    position = [*range(slots), *range(length, length + tokens)]
    for t in range(tokens):
        for column, key in enumerate(position):
            used = column < length or column >= slots
            seen = used and key <= length + t and (window is None or key > length + t - window)
            assert mask[t, column] == (0 if seen else HIDDEN)


def test_a_beginning_is_copied_across_buckets() -> None:
    rng = np.random.default_rng(3)
    source, target = HostKVCache(ARRAYS, 1300), HostKVCache(ARRAYS, 1300)
    chunk, other = _chunk(rng, 700), _chunk(rng, 300)
    _append(source, chunk)
    for length in (600, 20, 0):
        target.reset()
        _append(target, other)
        target.copy_from(source, length)
        assert target.length == length
        for layer_idx in range(LAYERS):
            keys, values = target.past(layer_idx)
            np.testing.assert_array_equal(keys[:, :, :length], chunk[layer_idx, 0][:, :, :length])
            np.testing.assert_array_equal(values[:, :, :length], chunk[layer_idx, 1][:, :, :length])
    # what the copy goes on with changes nothing in the source
    _append(target, other)
    keys, _ = source.past(0)
    np.testing.assert_array_equal(keys[:, :, :700], chunk[0, 0])
    with pytest.raises(RequestError, match="expected 0 to 700 tokens, got 701"):
        target.copy_from(source, 701)
