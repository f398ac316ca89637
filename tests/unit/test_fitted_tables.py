"""Two-bit tables fitted to what matrices get: right least squares, exact sums, and nothing else of a record changes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.backends.cpu.kernels import ExpertEncoder, reference
from edge_runtime.bundle.record import RecordLayout
from hobbit_export.statistics.panels import Panels
from hobbit_export.statistics.tables import DAMPING, Inputs, fit

HIDDEN, INTERMEDIATE = 96, 64
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FORMS = {"gated": (True, "linear", 4), "not gated": (False, "linear", 4), "floats": (True, "fp4", 2)}


def weights_of(rng: np.random.Generator, rows: int, cols: int, codes: str) -> np.ndarray:
    if codes == "linear":
        return np.asarray(rng.standard_t(5, (rows, cols)) / np.sqrt(cols), np.float32)
    signs, powers = rng.choice([-1, 1], (rows, cols)), np.repeat(rng.integers(-7, -3, (rows, cols // 32)), 32, axis=1)
    return np.asarray(np.ldexp(E2M1[rng.integers(0, 8, (rows, cols))] * signs, powers), np.float32)


def encoded(form: str, seed: int = 0) -> tuple[ExpertEncoder, list[np.ndarray], RecordLayout]:
    gated, codes, segments = FORMS[form]
    rng, wide = np.random.default_rng(seed), 2 if gated else 1
    shapes = [(INTERMEDIATE, HIDDEN)] * wide + [(HIDDEN, INTERMEDIATE)]
    matrices = [weights_of(rng, *shape, codes) for shape in shapes]
    encoder = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, segments, threads=2, gated=gated, codes=codes)
    for number, rows in zip(range(3 - len(matrices), 3), matrices, strict=True):
        encoder.add_rows(number, 0, rows, "f32")
    encoder.finish()
    return encoder, matrices, RecordLayout(HIDDEN, INTERMEDIATE, segments, gated)


def inputs_of(rng: np.random.Generator, cols: int, count: int = 40) -> np.ndarray:
    """Inputs as real ones are: with a mean that is not zero, and a few channels far larger than the rest."""
    size = np.where(rng.random(cols) < 0.1, 8.0, 1.0)
    return np.asarray((rng.normal(0, 1, (count, cols)) + rng.normal(0, 1, cols)) * size)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_read_as_the_format_says(form):
    encoder, matrices, layout = encoded(form)
    gated, codes, _ = FORMS[form]
    base = np.array(encoder.segment(0))
    decoded = reference.decode_expert([base], HIDDEN, INTERMEDIATE, 2, gated=gated, codes=codes)
    for number, wanted in zip(range(3 - len(matrices), 3), decoded, strict=True):
        rows = Panels(layout, number, fp4=codes == "fp4").read(base, 16, len(wanted))
        scales, lows = (np.repeat(part, 32, axis=1) for part in (rows.scales, rows.lows))
        values = np.take_along_axis(rows.tables, rows.cells.astype(int), axis=1) - rows.offset
        found = rows.unit[:, None] / 8 * scales * values - rows.minimum[:, None] * lows
        assert np.allclose(found, wanted[16:], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_outputs_come_closer_and_are_those_of_the_record(form):
    """Judged on inputs that were not fitted to; the record then decodes to what was promised."""
    encoder, matrices, layout = encoded(form)
    gated, codes, segments = FORMS[form]
    base = np.array(encoder.segment(0))
    plain = reference.decode_expert([base], HIDDEN, INTERMEDIATE, 2, gated=gated, codes=codes)
    for i, number in enumerate(range(3 - len(matrices), 3)):
        wanted, panels = matrices[i], Panels(layout, number, fp4=codes == "fp4")
        every = inputs_of(np.random.default_rng(number), wanted.shape[1], 80)
        x, held_back = every[:40], every[40:]
        got = fit(panels.read(base, 0, len(wanted)), wanted, Inputs.of(x), Inputs.of(x))
        panels.write(base, 0, got.tables)
        now = reference.decode_expert([base], HIDDEN, INTERMEDIATE, 2, gated=gated, codes=codes)[i]
        assert relative(got.coarse, x @ now.T) < 1e-4
        assert relative(got.outputs, x @ wanted.T) < 1e-4
        assert np.sqrt(got.residual) == pytest.approx(np.linalg.norm(now - wanted), rel=1e-3)
        before, after = (relative(held_back @ w.T, held_back @ wanted.T) for w in (plain[i], now))
        assert after < 0.9 * before
    if segments > 2:
        deeper = [base, *(encoder.segment(k) for k in range(1, segments))]
        for tier in (4, 6, 8):
            same = reference.decode_expert([encoder.segment(k) for k in range(segments)], HIDDEN, INTERMEDIATE, tier,
                                           gated=gated)  # fmt: skip
            for a, b in zip(
                reference.decode_expert(deeper, HIDDEN, INTERMEDIATE, tier, gated=gated), same, strict=True
            ):
                assert np.array_equal(a, b)


def test_tables_are_the_least_squares_ones():
    """Against numpy's solver on each row's four unknowns, the damping written as further equations."""
    encoder, matrices, layout = encoded("gated")
    base, wanted = np.array(encoder.segment(0)), matrices[0].astype(np.float64)
    x, coarse_x = inputs_of(np.random.default_rng(2), HIDDEN), inputs_of(np.random.default_rng(3), HIDDEN)
    rows = Panels(layout, 0).read(base, 0, INTERMEDIATE)
    got = fit(rows, matrices[0], Inputs.of(x), Inputs.of(coarse_x))
    for r in range(INTERMEDIATE):
        a = rows.unit[r] / 8 * np.repeat(rows.scales[r], 32)
        low = -rows.minimum[r] * np.repeat(rows.lows[r], 32)
        cells = np.stack([a * (rows.cells[r] == c) for c in range(4)], axis=1)
        rest = x @ wanted[r] - coarse_x @ (low + cells @ rows.tables[r])
        ridge = np.sqrt(DAMPING * (coarse_x**2).sum() / HIDDEN * (cells**2).sum(axis=0))
        change = np.linalg.lstsq(np.vstack((coarse_x @ cells, np.diag(ridge))), np.append(rest, np.zeros(4)))[0]
        assert np.abs(np.clip(rows.tables[r] + change, 0, 127) - got.tables[r]).max() < 0.51


def test_no_byte_depends_on_the_order_of_sums():
    encoder, matrices, layout = encoded("gated")
    base, x = np.array(encoder.segment(0)), inputs_of(np.random.default_rng(4), HIDDEN)
    panels = Panels(layout, 1)
    whole = fit(panels.read(base, 0, INTERMEDIATE), matrices[1], Inputs.of(x), Inputs.of(x))
    turned = Inputs.of(x[::-1])
    for start in range(0, INTERMEDIATE, 16):
        part = fit(panels.read(base, start, start + 16), matrices[1][start : start + 16], turned, turned)
        assert np.array_equal(part.tables, whole.tables[start : start + 16])


def test_rows_and_inputs_of_zeros_change_nothing():
    encoder = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, 1)
    zeros = [np.zeros(shape, np.float32) for shape in ((INTERMEDIATE, HIDDEN),) * 2 + ((HIDDEN, INTERMEDIATE),)]
    for number, rows in enumerate(zeros):
        encoder.add_rows(number, 0, rows, "f32")
    encoder.finish()
    layout, base = RecordLayout(HIDDEN, INTERMEDIATE, 1), np.array(encoder.segment(0))
    rows = Panels(layout, 0).read(base, 0, INTERMEDIATE)
    for x in (inputs_of(np.random.default_rng(5), HIDDEN), np.zeros((4, HIDDEN))):
        got = fit(rows, zeros[0], Inputs.of(x), Inputs.of(x))
        assert np.array_equal(got.tables, rows.tables)
        assert (got.residual, float(np.abs(got.coarse).max())) == (0.0, 0.0)
    encoder, matrices, layout = encoded("gated")
    rows, nothing = Panels(layout, 0).read(np.array(encoder.segment(0)), 0, 16), Inputs.of(np.zeros((4, HIDDEN)))
    assert np.array_equal(fit(rows, matrices[0][:16], nothing, nothing).tables, rows.tables)
