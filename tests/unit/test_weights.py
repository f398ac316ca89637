"""Weights as the exporter reads them: rows of plain tensors, and of tensors stored with inputs before outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import bfloat16, write_safetensors

from edge_runtime.base.errors import BundleError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.weights import PlainWeight, finite_rows, formats_of, plain_weights

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint16])
def test_rows_of_a_transposed_tensor(tmp_path: Path, kind: type) -> None:
    """Ranges inside a matrix and over several, in the stored type."""
    values = RNG.standard_normal((3, 5, 7)).astype(np.float32)
    raw = bfloat16(values) if kind is np.uint16 else values.astype(kind)
    write_safetensors(tmp_path / "model.safetensors", {"before": np.zeros(3, np.float32), "w": raw})
    wanted = np.ascontiguousarray(raw.transpose(0, 2, 1)).reshape(21, 5)
    with Checkpoint.open(tmp_path) as checkpoint:
        weight = plain_weights(checkpoint)["w"].transposed()
        assert (weight.shape, weight.rows, weight.cols) == ((3, 7, 5), 21, 5)
        for start in range(22):
            for stop in range(start, 22):
                assert weight.read(start, stop).tobytes() == wanted[start:stop].tobytes()
        assert weight.transposed().shape == (3, 5, 7)


@pytest.mark.parametrize("columns", [1, 40, 700, 3000])
def test_columns_of_long_rows(tmp_path: Path, columns: int) -> None:
    """Few columns are read row by row, many with whole rows: the numbers are the same."""
    values = RNG.integers(-(1 << 31), 1 << 31, (37, 3000)).astype(np.int32)
    write_safetensors(tmp_path / "model.safetensors", {"w": values.view(np.float32)})
    with Checkpoint.open(tmp_path) as checkpoint:
        for first in {0, 17, 3000 - columns} - {n for n in (17,) if n + columns > 3000}:
            found = checkpoint.raw_block("w", slice(5, 29), slice(first, first + columns))
            assert found.tobytes() == np.ascontiguousarray(values[5:29, first : first + columns]).tobytes()


def test_bytes_of_rows_add_up(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": np.zeros((7, 3), np.float16)})
    with Checkpoint.open(tmp_path) as checkpoint:
        weight = PlainWeight.of(checkpoint, "w")
        assert sum(weight.stored_bytes(i, i + 1) for i in range(7)) == weight.num_bytes == 42
        assert formats_of({"w": weight}) == {}


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    values = np.zeros((4, 2), np.float32)
    values[2, 1] = np.nan
    write_safetensors(tmp_path / "model.safetensors", {"w": values})
    with Checkpoint.open(tmp_path) as checkpoint:
        weight = PlainWeight.of(checkpoint, "w")
        assert finite_rows(weight, 0, 2).shape == (2, 2)
        with pytest.raises(BundleError, match="tensor 'w': rows 2 to 4: expected finite"):
            finite_rows(weight, 2, 4)
