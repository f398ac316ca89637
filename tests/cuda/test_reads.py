"""What the kernels read of a record: counted byte by byte and sector by sector, since pinned memory is not cached."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from cuda.bench import Bench, Case, make_expert, place, run_pairs, run_tiles
from cuda.test_expert_kernels import CODES, PROGRESSIVE

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


def planes_of(case: Case) -> list[slice]:
    """Where the plane of each segment lies; the bytes of all weights at tier 16."""
    spec = case.spec
    layout = RecordLayout(case.hidden, spec.intermediate, gated=spec.gated, bias=spec.bias)
    if case.tier == BF16:
        return [slice(0, 2 * layout.num_weights)]
    starts = [layout.plane0_offset, *[0] * (case.tier // 2 - 1)]
    return [slice(start, start + layout.plane_bytes) for start in starts]


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


@pytest.mark.parametrize(("tier", "codes"), CODES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_one_token_reads_each_byte_of_a_plane_once_in_whole_sectors(
    bench: Bench, shape: tuple[int, int], tier: int, codes: Literal["linear", "fp4"]
):
    case = one_pair(shape, tier, ExpertSpec(shape[1], codes=codes))
    reads = watch(bench, case)
    assert_each_byte_once(reads, planes_of(case))
    assert reads.sector_use >= LEAST_SECTOR_USE, reads.sector_use


def assert_each_byte_once(reads: Reads, planes: list[slice]) -> None:
    for k, (segment, plane) in enumerate(zip(reads.segments, planes, strict=True)):
        assert (segment[plane] == 1).all(), f"plane {k}"
        assert not segment[plane.stop :].any(), "padding is not read"


@pytest.mark.parametrize(("tier", "codes"), PROGRESSIVE)
def test_scales_and_minima_of_groups_are_read_once_and_rows_at_most_by_both_warps(
    bench: Bench, tier: int, codes: Literal["linear", "fp4"]
):
    hidden, inter = 288, 96
    reads = watch(bench, one_pair((hidden, inter), tier, ExpertSpec(inter, codes=codes))).segments[0]
    assert not reads[:64].any(), "the record's header"
    at = 64
    for cols in [hidden] * (2 * inter // 16) + [inter] * (hidden // 16):
        rows, table, groups = reads[at : at + 128], reads[at + 128 : at + 192], reads[at + 192 : at + 192 + cols]
        assert (rows == 2).all()  # two warps share a panel
        assert (table == (16 if tier == 2 else 0)).all()  # eight lanes of two warps, each request two sectors
        assert (groups == 1).all()
        at += 192 + cols


@pytest.mark.parametrize(("tier", "codes"), PROGRESSIVE)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_a_tile_of_tokens_reads_each_byte_of_a_plane_once_in_whole_sectors(
    bench: Bench, shape: tuple[int, int], tier: int, codes: Literal["linear", "fp4"]
):
    case = one_pair(shape, tier, ExpertSpec(shape[1], codes=codes), tokens=13)
    reads = watch(bench, case, batched=True)
    assert_each_byte_once(reads, planes_of(case))
    assert reads.sector_use >= LEAST_SECTOR_USE, reads.sector_use


def test_without_a_gate_and_with_biases_nothing_else_is_read(bench: Bench):
    case = one_pair((160, 96), 4, ExpertSpec(96, gated=False, activation="relu2", bias=True))
    reads, plane = watch(bench, case).segments[0], planes_of(case)[0]
    assert (reads[plane] == 1).all()
    biases = reads[plane.stop :]
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
