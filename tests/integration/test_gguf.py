"""GGUF files as the source: the same weights give the same bundle as their safetensors checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make_checkpoint
from gguf_files import as_f32, stored_as, write_gguf

from edge_runtime.bundle.bundle import Bundle
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions

YARN = {
    "rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 16.0,
    "beta_slow": 2.0,
}  # fmt: skip
EMBEDDING = "trunk/embed.bin"


def exported(checkpoint: Path, out: Path, **given: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The model a bundle holds, and the digest of each of its parts."""
    export(ExportOptions(checkpoint, out, **{"tiers": (2, 4, 8, 16), "trunk": "fp32", **given}), quiet=True)
    parts = {part.name: part.sha256 for part in Bundle.open(out).manifest.parts if part.role != "tokenizer"}
    return json.loads((out / "manifest.json").read_text())["model"], parts


def with_config(checkpoint: Path, **changes: Any) -> Path:
    """Change what config.json says of a checkpoint."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return checkpoint


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mixtral", {}),
        ("mixtral_sliding_tied", {}),
        ("olmoe", {"clip_qkv": 0.75}),
        ("qwen2_moe", {}),
        ("qwen3_moe", {"rope_parameters": YARN, "rms_norm_eps": 1e-6}),
    ],
)
def test_the_same_weights_give_the_same_bundle(case: str, changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    checkpoint = with_config(make_checkpoint(case, tmp_path / "ck"), **changes)
    bf16 = case in ("mixtral", "qwen2_moe")  # the checkpoint's own type; float32 is written by default
    store = stored_as("BF16") if bf16 else as_f32
    file = write_gguf(checkpoint, tmp_path / "model.gguf", store, splits=8 if case == "olmoe" else 0)
    assert ("-00001-of-" in file.name) == (case == "olmoe")
    expected, got = exported(checkpoint, tmp_path / "a"), exported(file, tmp_path / "b")
    assert got[0] == expected[0]
    if not bf16:
        narrow = np.fromfile(tmp_path / "a" / EMBEDDING, np.uint16).astype(np.uint32) << 16
        assert np.array_equal(narrow, np.fromfile(tmp_path / "b" / EMBEDDING, np.uint32))
        del got[1][EMBEDDING], expected[1][EMBEDDING]
    assert got[1] == expected[1]
