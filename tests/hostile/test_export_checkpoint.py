"""Checkpoints that lie: every lie is an error naming file and tensor, never a crash or a read past the end."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import qwen3_config, qwen3_shapes, write_qwen3, write_raw, write_safetensors

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.safetensors import MAX_HEADER_BYTES, read_header
from hobbit_export.source import SourceModel

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


LIES: list[tuple[str, bytes, int, str]] = [
    ("not json", b"{", 0, "expected JSON"),
    ("not utf-8", b'{"\xff": 1}', 0, "expected JSON"),
    ("list", b"[]", 0, "expected an object"),
    ("deep", b"[" * 100_000, 0, "expected JSON"),
    ("duplicate", b'{"a":%s,"a":%s}' % ((json.dumps(F32).encode(),) * 2), 16, "name 'a' listed twice"),
    ("not an object", header(a=3), 0, "tensor 'a': expected dtype, shape and data_offsets"),
    ("extra key", header(a={**F32, "x": 1}), 16, "tensor 'a': expected dtype"),
    ("dtype", header(a={**F32, "dtype": "F33"}), 16, "tensor 'a': dtype"),
    ("dtype type", header(a={**F32, "dtype": ["F32"]}), 16, "tensor 'a': dtype"),
    ("negative size", header(a={**F32, "shape": [-2, -2]}), 16, "tensor 'a': shape"),
    ("float size", header(a={**F32, "shape": [2.0, 2]}), 16, "tensor 'a': shape"),
    ("bool size", header(a={**F32, "shape": [True, 4]}), 16, "tensor 'a': shape"),
    ("huge size", header(a={**F32, "shape": [1 << 62, 4]}), 16, "tensor 'a': shape"),
    ("overflow", header(a={**F32, "shape": [1 << 33, 1 << 33]}), 16, "tensor 'a': expected"),
    ("many dims", header(a={**F32, "shape": [1] * 9}), 16, "tensor 'a': shape"),
    ("shape mismatch", header(a={**F32, "shape": [3, 2]}), 16, "tensor 'a': expected 24 bytes for F32"),
    ("backwards", header(a={**F32, "data_offsets": [16, 0]}), 16, "tensor 'a': data_offsets"),
    ("negative", header(a={**F32, "data_offsets": [-16, 0]}), 16, "tensor 'a': data_offsets"),
    ("past the end", header(a={**F32, "data_offsets": [8, 24]}), 16, "tensor 'a': data_offsets"),
    ("three offsets", header(a={**F32, "data_offsets": [0, 8, 16]}), 16, "tensor 'a': data_offsets"),
    ("overlap", header(a=F32, b={**F32, "data_offsets": [8, 24]}), 24, "tensor 'b': overlaps"),
    ("same place", header(a=F32, b=F32), 16, "tensor 'b': overlaps"),
    ("hole", header(a=F32, b={**F32, "data_offsets": [20, 36]}), 36, "tensor 'b': leaves a hole"),
    ("tail", header(a=F32), 20, "expected .* bytes, got"),
]


@pytest.mark.parametrize(("name", "head", "data", "message"), LIES, ids=[lie[0] for lie in LIES])
def test_lying_header(tmp_path: Path, name: str, head: bytes, data: int, message: str) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, head, [bytes(data)])
    with pytest.raises(BundleError, match=message) as caught:
        Checkpoint.open(tmp_path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [1 << 63, MAX_HEADER_BYTES + 1, 100, 0xFFFFFFFFFFFFFFFF])
def test_header_length_beyond_the_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(BundleError, match="header: expected at most 2 bytes"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 3, 7])
def test_file_too_short_for_a_header(tmp_path: Path, size: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    with pytest.raises(BundleError, match="truncated"):
        Checkpoint.open(tmp_path)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200), data=st.integers(0, 64))
def test_any_bytes_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, raw: bytes, data: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    write_raw(path, raw, [bytes(data)])
    with contextlib.suppress(BundleError):
        read_header(path)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_changed_byte(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    """Whatever a changed header claims, what is accepted lies inside the file."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    write_safetensors(path, {"a": np.zeros((4, 8), np.float32), "b": np.zeros(3, np.uint16)})
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = byte
    path.write_bytes(raw)
    try:
        tensors = read_header(path)
    except BundleError:
        return
    for info in tensors.values():
        assert 8 <= info.offset <= info.offset + info.num_bytes <= len(raw)


INDEXES: list[tuple[Any, str]] = [
    ({}, "weight_map: expected a non-empty object"),
    ({"weight_map": []}, "weight_map: expected a non-empty object"),
    ({"weight_map": {"w": "../model.safetensors"}}, "tensor 'w': expected a file in the folder"),
    ({"weight_map": {"w": "/etc/passwd"}}, "tensor 'w': expected a file in the folder"),
    ({"weight_map": {"w": ".."}}, "tensor 'w': expected a file in the folder"),
    ({"weight_map": {"w": "a\0b"}}, "tensor 'w': expected a file in the folder"),
    ({"weight_map": {"w": 3}}, "tensor 'w': expected a file in the folder"),
    ({"weight_map": {"w": "gone.safetensors"}}, "file 'gone.safetensors' is missing"),
    ({"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}}, "tensor 'v': listed in .*, but not in the file"),
    ({"weight_map": {"w": "b.safetensors"}}, "tensor 'w': listed in .*, but not in the file"),
    ({"weight_map": {"x": "b.safetensors"}}, "tensor 'y': in the file, but not in"),
]


@pytest.mark.parametrize(("index", "message"), INDEXES)
def test_lying_index(tmp_path: Path, index: Any, message: str) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"w": np.zeros(4, np.float32)})
    write_safetensors(tmp_path / "b.safetensors", {"x": np.zeros(4, np.float32), "y": np.zeros(4, np.float32)})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match=message):
        Checkpoint.open(tmp_path)


def test_tensor_in_two_files(tmp_path: Path) -> None:
    for name in "ab":
        write_safetensors(
            tmp_path / f"{name}.safetensors", {"w": np.zeros(4, np.float32), name: np.zeros(4, np.float32)}
        )
    index = {"weight_map": {"w": "a.safetensors", "a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match=r"tensor 'w': is also in a\.safetensors"):
        Checkpoint.open(tmp_path)


CONFIG = qwen3_config(64, 32, 2, 1)
EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"


def open_model(folder: Path, **changes: Any) -> None:
    """Write a model with tensors replaced (or removed, by None) and match it with its config."""
    tensors = {n: np.zeros(s, np.uint16) for n, s in qwen3_shapes(CONFIG).items()} | changes
    write_safetensors(folder / "model.safetensors", {n: a for n, a in tensors.items() if a is not None})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    SourceModel.open(folder).checkpoint.close()


def test_tensors_are_matched_before_any_work(tmp_path: Path) -> None:
    open_model(tmp_path)
    open_model(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(16, np.float32)})
    for name, array, message in (
        (EXPERT, None, f"tensor '{EXPERT}' is missing"),
        ("model.norm.weight", None, "tensor 'model.norm.weight' is missing"),
        (EXPERT, np.zeros((64, 32), np.uint16), r"expected shape \[32, 64\], got \[64, 32\]"),
        ("lm_head.weight", np.zeros((500, 64), np.uint16), r"expected shape \[512, 64\]"),
        (EXPERT, np.zeros((32, 64), np.uint8), "expected F32, F16 or BF16 weights, got U8"),
        (
            "model.layers.0.mlp.shared_expert.up_proj.weight",
            np.zeros((32, 64), np.uint16),
            "not part of a qwen3_moe model",
        ),
        ("model.layers.0.self_attn.q_proj.bias", np.zeros(128, np.uint16), "not part of a qwen3_moe model"),
        ("model.layers.1.mlp.gate.weight", np.zeros((2, 64), np.uint16), "not part of a qwen3_moe model"),
    ):
        with pytest.raises(BundleError, match=message) as caught:
            open_model(tmp_path, **{name: array})
        assert name in str(caught.value)


def test_tied_head_that_is_stored_is_used(tmp_path: Path) -> None:
    write_qwen3(tmp_path, {**CONFIG, "tie_word_embeddings": False})
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    source = SourceModel.open(tmp_path)
    source.checkpoint.close()
    assert source.trunk["head"] == "lm_head.weight"
    assert not source.spec.tied_embeddings


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "qwen3_moe", "a": NaN}', "[" * 100_000])
def test_damaged_config(tmp_path: Path, text: str) -> None:
    write_qwen3(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises((BundleError, ConfigError), match=r"config\.json"):
        SourceModel.open(tmp_path)
