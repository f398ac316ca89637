"""What the kernels read of a record: counted byte by byte and sector by sector, since pinned memory is not cached."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
from cuda.bench import TIERS, Bench, Case, make_expert, place, run_pairs, run_tiles

from edge_runtime.backends.cuda.launches import BF16
from edge_runtime.base.spec import ExpertSpec
from edge_runtime.bundle.record import RecordLayout

LEAST_SECTOR_USE = 0.98
SHAPES = [(64, 32), (96, 160), (288, 96), (512, 288), (1024, 256)]


@dataclass(frozen=True)
class Reads:
    """Times each byte was read, by segment, and the share of fetched sectors that was asked for."""

    segments: list[np.ndarray]
    sector_use: float


def watch(bench: Bench, case: Case, batched: bool = False) -> Reads:
    placed = place(bench, case)
    bench.stream.synchronize()
    bench.fake.shim_unwatch()
    for address, nbytes in placed.places.values():
        bench.fake.shim_watch(address, address + nbytes)
    (run_tiles if batched else run_pairs)(bench, case, placed)
    found = []
    for index, (_, nbytes) in enumerate(placed.places.values()):
        reads = np.zeros(nbytes, np.uint8)
        bench.fake.shim_reads(index, reads.ctypes.data_as(ctypes.c_void_p))
        found.append(reads)
    totals = np.zeros(3, np.uint64)
    bench.fake.shim_totals(totals.ctypes.data_as(ctypes.c_void_p))
    return Reads(found, float(totals[2]) / (32 * float(totals[1])))


def one_pair(shape: tuple[int, int], tier: int, spec: ExpertSpec | None = None, tokens: int = 1) -> Case:
    hidden, inter = shape
    spec = ExpertSpec(inter) if spec is None else spec
    pool = (make_expert(hidden, spec, 1),)
    x = np.random.default_rng(2).standard_normal((tokens, hidden)).astype(np.float32)
    return Case(hidden, spec, tier, np.zeros((tokens, 1), np.int32), np.zeros(1, np.int32), x, pool)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_one_token_reads_each_byte_of_a_plane_once_in_whole_sectors(bench: Bench, shape: tuple[int, int], tier: int):
    reads = watch(bench, one_pair(shape, tier))
    layout = RecordLayout(*shape)
    if tier == BF16:
        assert (reads.segments[0][: 2 * layout.num_weights] == 1).all()
        assert not reads.segments[0][2 * layout.num_weights :].any()
    for k, segment in enumerate(reads.segments if tier != BF16 else []):
        start = layout.plane0_offset if k == 0 else 0
        assert (segment[start : start + layout.plane_bytes] == 1).all(), f"plane {k}"
        assert not segment[start + layout.plane_bytes :].any(), "padding is not read"
    assert reads.sector_use >= LEAST_SECTOR_USE, reads.sector_use


@pytest.mark.parametrize("tier", TIERS[:-1])
def test_scales_and_minima_of_groups_are_read_once_and_rows_at_most_by_both_warps(bench: Bench, tier: int):
    hidden, inter = 288, 96
    reads = watch(bench, one_pair((hidden, inter), tier)).segments[0]
    assert not reads[:64].any(), "the record's header"
    at = 64
    for cols in [hidden] * (2 * inter // 16) + [inter] * (hidden // 16):
        rows, table, groups = reads[at : at + 128], reads[at + 128 : at + 192], reads[at + 192 : at + 192 + cols]
        assert (rows == 2).all()  # two warps share a panel
        assert (table == (16 if tier == 2 else 0)).all()  # eight lanes of two warps, each request two sectors
        assert (groups == 1).all()
        at += 192 + cols


@pytest.mark.parametrize("tier", TIERS[:-1])
def test_a_tile_of_tokens_reads_each_byte_of_a_plane_once(bench: Bench, tier: int):
    shape = (288, 96)
    reads = watch(bench, one_pair(shape, tier, tokens=13), batched=True)
    layout = RecordLayout(*shape)
    for k, segment in enumerate(reads.segments):
        start = layout.plane0_offset if k == 0 else 0
        assert (segment[start : start + layout.plane_bytes] == 1).all(), f"plane {k}"
    assert reads.sector_use >= 0.9, reads.sector_use  # row scales are read by 4-byte loads


def test_without_a_gate_and_with_biases_nothing_else_is_read(bench: Bench):
    spec = ExpertSpec(96, gated=False, activation="relu2", bias=True)
    reads = watch(bench, one_pair((160, 96), 4, spec))
    layout = RecordLayout(160, 96, gated=False, bias=True)
    start = layout.plane0_offset
    assert (reads.segments[0][start : start + layout.plane_bytes] == 1).all()
    biases = reads.segments[0][start + layout.plane_bytes :]
    assert (biases[: 4 * (96 + 160)] == 1).all()
    assert not biases[4 * (96 + 160) :].any()


def test_the_counter_counts(bench: Bench):
    """A kernel whose loads are known: the self-test reads 16, 8 and 4 bytes of 64 a lane."""
    words = np.zeros((32, 16), np.uint32)
    given, out = bench.put(words), bench.room(np.uint32, 32, 16)
    bench.stream.synchronize()
    bench.fake.shim_watch(given, given + words.nbytes)
    arguments = ctypes.c_uint64(given), ctypes.c_uint64(out.address)
    bench.module.kernel("hb_self_test").launch(bench.stream, (1, 1), 32, *arguments)
    bench.stream.synchronize()
    reads, totals = np.zeros(words.nbytes, np.uint8), np.zeros(3, np.uint64)
    bench.fake.shim_reads(0, reads.ctypes.data_as(ctypes.c_void_p))
    bench.fake.shim_totals(totals.ctypes.data_as(ctypes.c_void_p))
    assert reads.reshape(32, 64)[:, :16].tolist() == [[2] * 4 + [3] * 4 + [1] * 8] * 32
    assert totals.tolist() == [3, 96, 32 * 28]
