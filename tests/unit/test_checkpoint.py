"""Reading checkpoints: ranges of rows, source types, shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import bfloat16, write_safetensors

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint, is_finite, to_f32

RNG = np.random.default_rng(0)
W = RNG.standard_normal((12, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_rows_equal_the_tensor(tmp_path: Path, kind: str) -> None:
    raw = {"f32": W, "f16": W.astype(np.float16), "bf16": bfloat16(W)}[kind]
    write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(3, np.float32), "w": raw})
    exact = {
        "f32": W,
        "f16": W.astype(np.float16).astype(np.float32),
        "bf16": (raw.astype(np.uint32) << 16).view("f4"),
    }[kind]
    with Checkpoint.open(tmp_path) as checkpoint:
        assert np.array_equal(checkpoint.tensor_f32("w"), exact)
        assert np.array_equal(checkpoint.rows_f32("w", 3, 7), exact[3:7])
        assert checkpoint.raw_rows("w", 3, 7).tobytes() == raw[3:7].tobytes()
        assert checkpoint.rows_f32("w", 5, 5).shape == (0, 8)


def test_fused_tensor_is_a_matrix_of_all_its_rows(tmp_path: Path) -> None:
    fused = RNG.standard_normal((3, 4, 8)).astype(np.float32)
    write_safetensors(tmp_path / "model.safetensors", {"e": fused})
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.tensors["e"].rows == 12
        assert np.array_equal(checkpoint.rows_f32("e", 4, 8), fused[1])


def test_shards_and_index(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": W})
    write_safetensors(tmp_path / "b.safetensors", {"y": W + 1})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert np.array_equal(checkpoint.tensor_f32("y"), W + 1)
        assert checkpoint.weight_bytes == 2 * W.nbytes
        assert [f.name for f in checkpoint.files] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("with_old_shards", [False, True])
def test_whole_file_goes_before_a_stale_index(tmp_path: Path, caplog: Any, with_old_shards: bool) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": W})
    if with_old_shards:  # the weights of before a fine-tuning must not be exported in silence
        write_safetensors(tmp_path / "model-00001-of-00001.safetensors", {"w": W + 1})
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert np.array_equal(checkpoint.tensor_f32("w"), W)
        assert [f.name for f in checkpoint.files] == ["model.safetensors"]
    assert "model.safetensors is read; model.safetensors.index.json beside it is ignored" in caplog.text


@pytest.mark.parametrize("index", ["not json", "{}", '{"weight_map": {"w": "../elsewhere"}}'])
def test_a_damaged_index_beside_a_whole_file_is_not_read(tmp_path: Path, index: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"w": W})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_file_that_shrinks_while_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": W})
    with Checkpoint.open(tmp_path) as checkpoint:
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(BundleError, match=r"model.safetensors: tensor 'w': the file ended early"):
            checkpoint.tensor_f32("w")


def test_widening_is_exact_and_does_not_copy_float32() -> None:
    assert to_f32(W) is W
    every = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(to_f32(every).view(np.uint32) >> 16, every)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert np.array_equal(to_f32(halves), halves.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_is_finite(bad: float) -> None:
    for dtype in (np.float32, np.float16):
        assert is_finite(W.astype(dtype))
        assert not is_finite(np.append(W, bad).astype(dtype))
    assert is_finite(bfloat16(W))
    assert not is_finite(bfloat16(np.append(W, bad).astype(np.float32)))
    assert is_finite(np.empty(0, np.uint16))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected model.safetensors"),
        (["pytorch_model.bin"], "pickle, which is never loaded"),
        (["a.safetensors", "b.safetensors"], "index.json beside 2 safetensors"),
    ],
)
def test_folder_without_a_clear_weight_file(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(tmp_path)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found nothing"):
        Checkpoint.open(tmp_path / "missing")
