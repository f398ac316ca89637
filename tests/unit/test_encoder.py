"""The expert encoder: bytes, errors against independent codecs, and refusals."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from oracles import codec

from edge_runtime.backends.cpu.kernels import ExpertEncoder, available_isas, reference
from hobbit_export.encoder_check import choose, encode_sample, encoder_isa

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe" / "model.safetensors"


def shapes(hidden: int, intermediate: int) -> list[tuple[int, int]]:
    return [(intermediate, hidden), (intermediate, hidden), (hidden, intermediate)]


def heavy_tailed(hidden: int, intermediate: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_t(5, s) * 0.02).astype(np.float32) for s in shapes(hidden, intermediate)]


def two_matrices(hidden: int, intermediate: int, seed: int) -> list[np.ndarray]:
    return heavy_tailed(hidden, intermediate, seed)[:2]


def normal(hidden: int, intermediate: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(s) * 0.02).astype(np.float32) for s in shapes(hidden, intermediate)]


def bf16_bits(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def trained(layer: int, expert: int) -> list[np.ndarray]:
    if not MODEL.exists():
        pytest.skip(f"{MODEL} is not here: real expert weights were not checked")
    with MODEL.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        index = json.loads(file.read(size))
        out = []
        for name in ("gate", "up", "down"):
            entry = index[f"model.layers.{layer}.mlp.experts.{expert}.{name}_proj.weight"]
            assert entry["dtype"] == "BF16"
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            out.append(from_bits(np.frombuffer(file.read(end - begin), np.uint16)).reshape(entry["shape"]))
    return out


def encode(
    matrices: list[np.ndarray], dtype: str = "f32", segments: int = 4, threads: int = 1, isa: str = "auto"
) -> ExpertEncoder:
    intermediate, hidden = matrices[0].shape
    encoder = ExpertEncoder(3, 7, hidden, intermediate, segments, bf16=True, threads=threads, isa=isa)
    for matrix, values in enumerate(matrices):
        encoder.add_rows(matrix, 0, values, dtype)
    encoder.finish()
    return encoder


def record(encoder: ExpertEncoder, segments: int = 4) -> list[bytes]:
    return [encoder.segment(i).tobytes() for i in range(segments)] + [encoder.bf16().tobytes()]


def flat(matrices: list[np.ndarray] | tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([m.ravel() for m in matrices]).astype(np.float64)


def decoded_errors(matrices: list[np.ndarray]) -> dict[int, float]:
    """Relative error of each tier over the matrices given: gate and up, or all three."""
    intermediate, hidden = matrices[0].shape
    rest = [np.zeros((hidden, intermediate), np.float32)][: 3 - len(matrices)]
    segments = record(encode([*matrices, *rest]))
    decoded = {tier: reference.decode_expert(segments, hidden, intermediate, tier) for tier in (2, 4, 6, 8)}
    want = flat(matrices)
    return {tier: codec.relative_error(want, flat(found[: len(matrices)])) for tier, found in decoded.items()}


def pooled(error_of: codec.ErrorOf, matrices: list[np.ndarray]) -> float:
    """Relative error over the three matrices together."""
    energy = [float((m.astype(np.float64) ** 2).sum()) for m in matrices]
    errors = [error_of(m.astype(np.float64)) for m in matrices]
    return float(np.sqrt(sum(e**2 * w for e, w in zip(errors, energy, strict=True)) / sum(energy)))


# Name -> matrices, and how much worse than an exhaustive search for codes of 2 bits alone tier 2 may be. Against codes of
# 2 bits fitted to each group as usual the bound is 1.06 throughout.
NESTED = {
    "student-t 256x192": (partial(heavy_tailed, 256, 192, 1), 1.06),
    "student-t 96x512": (partial(heavy_tailed, 96, 512, 1), 1.06),
    "normal 96x512": (partial(normal, 96, 512, 1), 1.06),
    **{f"trained layer {n}": (partial(trained, n, 4 * n + 3), 1.06) for n in range(8)},
    # The longer a row, the less its own table gains over one for the whole matrix.
    "student-t rows of 768": (partial(two_matrices, 768, 64, 1), 1.075),
    "student-t rows of 2048": (partial(two_matrices, 2048, 32, 1), 1.075),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_tiers_are_nearly_as_good_as_independent_codes(name: str) -> None:
    build, bound = NESTED[name]
    matrices = build()
    errors = decoded_errors(matrices)
    four = pooled(codec.four_bit_error, matrices)
    two, fitted = (pooled(error_of, matrices) for error_of in (codec.two_bit_error, codec.fitted_two_bit_error))
    print(
        f"{name}: 2/4/6/8 bits {errors[2]:.4f} {errors[4]:.4f} {errors[6]:.4f} {errors[8]:.5f}; "
        f"alone: 4 bits {four:.4f} (ratio {errors[4] / four:.4f}), 2 bits fitted {fitted:.4f} (ratio {errors[2] / fitted:.4f}), "
        f"searched {two:.4f} (ratio {errors[2] / two:.4f})"
    )
    assert errors[4] <= 1.01 * four
    assert errors[2] <= 1.06 * fitted
    assert errors[2] <= bound * two
    assert errors[8] <= 0.008


def on_grid(levels: int, group: int, dtype: str) -> list[np.ndarray]:
    """Weights of a source with 4 bits: whole steps from a zero point, scales shared by `group` inputs."""
    rng, out = np.random.default_rng(levels), []
    for rows, inputs in shapes(256, 128):
        codes = rng.integers(0, levels + 1, (rows, inputs // group, group)) - rng.integers(
            0, levels + 1, (rows, 1, 1)
        )  # fmt: skip
        steps = (0.004 * rng.uniform(0.7, 1.4, (rows, inputs // group, 1))).astype(np.float16)
        values = (codes * steps.astype(np.float32)).astype(np.float32).reshape(rows, inputs)
        out.append(from_bits(bf16_bits(values)) if dtype == "bf16" else values)
    return out


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("levels", "share"), [(3, 0.2), (7, 0.2), (11, 0.3), (13, 0.2), (15, 0.2)])
def test_the_grid_of_a_quantised_source_is_kept(levels: int, share: float, group: int, dtype: str) -> None:
    """Whatever part of its 16 codes a group uses, four bits say them again: what is left are steps of 8 bits.

    A stored step and a stored minimum are off by 1/1020 of the row's largest on average, up to 15 codes away: about a
    tenth of what rounding once to the source's grid costs, each. Another grid would cost about that rounding again.
    With 8 to 12 levels a few groups take one, where the two-bit tier gains more than that.
    """
    matrices = on_grid(levels, group, dtype)
    errors = decoded_errors(matrices)
    size = float(np.sqrt(np.mean(np.concatenate([w.ravel() for w in matrices]) ** 2)))
    rounding = 0.004 / np.sqrt(12) / size
    print(f"{levels} levels in groups of {group}, {dtype}: 4 bits {errors[4]:.4f}, one rounding {rounding:.4f}")
    assert errors[4] < share * rounding


@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (160, 224)])
def test_errors_are_those_of_the_decoded_record(shape: tuple[int, int]) -> None:
    matrices = heavy_tailed(*shape, 2)
    encoder = encode(matrices)
    segments = record(encoder)
    assert [len(s) for s in segments[:4]] == reference.segment_bytes(*shape, 4)
    assert len(segments[4]) == reference.bf16_bytes(*shape)
    errors = encoder.errors()
    assert list(errors) == [2, 4, 6, 8, 16]
    for tier in (2, 4, 6, 8):
        decoded = reference.decode_expert(segments, *shape, tier)
        assert errors[tier] == pytest.approx(codec.relative_error(flat(matrices), flat(decoded)), rel=1e-4)
    exact = reference.decode_bf16(segments[4], *shape)
    for source, got in zip(matrices, exact, strict=True):
        assert np.array_equal(bf16_bits(source), bf16_bits(got))
    assert errors[16] == pytest.approx(codec.relative_error(flat(matrices), flat(exact)), rel=1e-4)


def test_header_and_padding() -> None:
    encoder = encode(heavy_tailed(64, 96, 0))
    base = encoder.segment(0).tobytes()
    assert base[:16] == b"HBR1" + struct.pack("<III", 3, 7, 0)
    assert base[16:64] == bytes(48)
    for panel in range(12):  # gate and up: 64 inputs a row
        start = 64 + panel * (192 + 64)
        tables = np.frombuffer(base[start + 128 : start + 192], np.uint8).reshape(16, 4)
        assert (np.diff(tables.astype(int), axis=1) > 0).all()
        assert tables.max() <= 127
    metadata = 12 * (192 + 64) + 4 * (192 + 96)
    assert not any(base[64 + metadata + 3 * 64 * 96 // 4 :])
    assert not any(encoder.segment(1)[3 * 64 * 96 // 4 :])


def test_each_row_has_the_table_that_suits_it() -> None:
    """Tables differ between rows, and none of a row's entries can be changed for the better."""
    matrices = heavy_tailed(64, 96, 3)
    segments = record(encode(matrices))
    base = np.frombuffer(segments[0], np.uint8).copy()
    tables = base[64 + 128 : 64 + 192].reshape(16, 4)
    assert len(np.unique(tables, axis=0)) > 8
    best = row_errors(matrices[0], [base.tobytes()])
    for row, k in np.ndindex(16, 4):
        entry = int(tables[row, k])
        tables[row, k] = entry + 1 - 2 * (row % 2)
        changed = row_errors(matrices[0], [base.tobytes()])
        tables[row, k] = entry
        assert changed[row] > best[row] * (1 - 1e-5)
        assert np.array_equal(np.delete(changed, row), np.delete(best, row))


def row_errors(gate: np.ndarray, segments: list[bytes]) -> np.ndarray:
    decoded = reference.decode_expert(segments, 64, 96, 2)[0]
    return np.asarray(((gate - decoded).astype(np.float64) ** 2).sum(axis=1))


def test_bytes_do_not_depend_on_isa_threads_grouping_order_or_reuse() -> None:
    matrices = heavy_tailed(96, 160, 5)
    want = record(encode(matrices))
    assert record(encode(matrices, threads=3)) == want
    tiny, huge = ([w * np.float32(10.0**power) for w in heavy_tailed(96, 160, 5)] for power in (-33, 14))
    quantised = on_grid(9, 32, "f32")
    for isa in available_isas():
        assert record(encode(matrices, isa=isa)) == want, isa
        for others in (quantised, tiny, huge):
            assert record(encode(others, isa=isa)) == record(encode(others)), isa

    encoder = ExpertEncoder(0, 0, 96, 160, 4, bf16=True, threads=2)
    for matrix, values in enumerate(heavy_tailed(96, 160, 6)):
        encoder.add_rows(matrix, 0, values, "f32")
    encoder.finish()
    encoder.reset(3, 7)
    for matrix in (2, 0, 1):
        for start in reversed(range(0, len(matrices[matrix]), 32)):
            encoder.add_rows(matrix, start, matrices[matrix][start : start + 32].copy(), "f32")
    encoder.finish()
    assert record(encoder) == want


def test_fewer_segments_are_a_prefix() -> None:
    matrices = heavy_tailed(64, 96, 0)
    whole = record(encode(matrices))
    for count in (1, 2, 3):
        part = encode(matrices, segments=count)
        assert record(part, count)[:count] == whole[:count]
        assert list(part.errors()) == [*[2, 4, 6, 8][:count], 16]


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision_sources_equal_the_same_values_as_float32(dtype: str) -> None:
    matrices = heavy_tailed(64, 96, 4)
    matrices[0][0, :4] = [6e-8, -3e-6, 65504, 0.0]  # f16 subnormals and its largest value
    halves = [m.astype(np.float16) if dtype == "f16" else bf16_bits(m) for m in matrices]
    wide = [h.astype(np.float32) if dtype == "f16" else from_bits(h) for h in halves]
    assert record(encode(halves, dtype)) == record(encode(wide))


def test_zero_constant_and_one_sided_groups() -> None:
    matrices = [np.zeros(s, np.float32) for s in shapes(64, 64)]
    zero = encode(matrices)
    assert zero.errors() == {2: 0, 4: 0, 6: 0, 8: 0, 16: 0}
    for tier in (2, 4, 6, 8):
        assert not flat(reference.decode_expert(record(zero), 64, 64, tier)).any()

    rng = np.random.default_rng(0)
    matrices[0][:16] = 0.25
    matrices[0][16:32] = -0.25
    matrices[1][:] = rng.random((64, 64)) + 1
    matrices[2][:] = -rng.random((64, 64)) - 1
    matrices[2][5] = 1e-38
    matrices[2][6] = 1e14 * rng.standard_normal(64)
    decoded = reference.decode_expert(record(encode(matrices)), 64, 64, 8)
    for got, want in zip(decoded, matrices, strict=True):
        assert np.isfinite(got).all()
        scale = np.maximum(np.abs(want).max(axis=1, keepdims=True), 1e-30)
        assert (np.abs(got - want) / scale).max() < 0.02  # a clipped extreme may miss by half a 4-bit step


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype == "f16" else np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_non_finite_weights_are_refused_by_name_and_can_be_replaced(dtype: str, bad: float) -> None:
    values = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    broken = values.copy()
    broken[37, 5] = bad
    encoder = ExpertEncoder(0, 0, 96, 64, 2, threads=2)
    with pytest.raises(ValueError, match="up: row 37 holds a non-finite weight"):
        encoder.add_rows(1, 0, narrow(broken, dtype), dtype)
    encoder.add_rows(1, 0, narrow(values, dtype), dtype)


def test_missing_repeated_and_misplaced_rows_are_refused() -> None:
    encoder = ExpertEncoder(0, 0, 64, 96, 2)
    gate, down = np.ones((32, 64), np.float32), np.ones((16, 96), np.float32)
    encoder.add_rows(0, 0, gate, "f32")
    for matrix, start, rows, dtype, message in (
        (0, 16, gate, "f32", "gate: row 16 was added twice"),
        (0, 8, gate, "f32", "multiples of 16"),
        (0, 32, gate[:8], "f32", "multiples of 16"),
        (0, 32, gate[:0], "f32", "multiples of 16"),
        (0, 80, gate, "f32", r"gate: rows 80\.\.112 exceed 96"),
        (0, -16, gate, "f32", "row_start must not be negative"),
        (3, 0, gate, "f32", "matrix must be 0"),
        (2, 0, gate, "f32", r"expected C-contiguous \[n, 96\], got float32 \[32, 64\]"),
        (2, 0, down[:, ::-1], "f32", "C-contiguous"),
        (2, 0, down, "bf16", "expected dtype 'f32' with float32"),
        (2, 0, down, "f64", "expected dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.add_rows(matrix, start, rows, dtype)
    with pytest.raises(ValueError, match="gate: row 32 is missing"):
        encoder.finish()
    with pytest.raises(ValueError, match="finish"):
        encoder.segment(0)
    with pytest.raises(ValueError, match="finish"):
        encoder.errors()


def test_use_after_finish_and_bad_construction_are_refused() -> None:
    encoder = encode(heavy_tailed(32, 32, 0))
    with pytest.raises(ValueError, match="reset"):
        encoder.add_rows(0, 0, np.ones((32, 32), np.float32), "f32")
    with pytest.raises(ValueError, match="reset"):
        encoder.finish()
    for index in (4, -2):
        with pytest.raises(ValueError, match=r"segment: expected 0\.\.3"):
            encoder.segment(index)
    assert not encoder.segment(0).flags.writeable
    for arguments, message in (
        ((0, 0, 33, 32, 4), "multiples of 32"),
        ((0, 0, 32, 0, 4), "multiples of 32"),
        ((0, 0, 32, 32, 5), "num_segments"),
        ((-1, 0, 32, 32, 4), "must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ExpertEncoder(*arguments)
    with pytest.raises(ValueError, match="threads"):
        ExpertEncoder(0, 0, 32, 32, 4, threads=0)
    plain = ExpertEncoder(0, 0, 32, 32, 1)
    for matrix in range(3):
        plain.add_rows(matrix, 0, np.ones((32, 32), np.float32), "f32")
    plain.finish()
    with pytest.raises(ValueError, match="bf16 was not asked for"):
        plain.bf16()


def test_the_exporter_uses_the_best_instruction_set_that_writes_the_portable_bytes(caplog):
    assert encoder_isa() == available_isas()[0]
    assert not caplog.records
    sample = encode_sample("scalar")

    def encode(isa: str) -> list[bytes]:
        return [*sample[:-1], b"other"] if isa == "broken" else sample

    assert choose(["broken", "good", "scalar"], encode) == "good"
    assert "the broken encoder writes other bytes" in caplog.text
    assert choose(["broken", "scalar"], encode) == "scalar"
