"""GGUF files as the source: the same weights give the same bundle as their safetensors checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import FAMILY_CASES, make_checkpoint
from gguf_files import write_gguf

from edge_runtime.bundle.bundle import Bundle
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions


def parts_of(checkpoint: Path, out: Path, **given: Any) -> dict[str, str]:
    export(ExportOptions(checkpoint, out, **{"tiers": (2, 4, 8, 16), "trunk": "fp32", **given}), quiet=True)
    manifest = Bundle.open(out).manifest
    return {p.name: p.sha256 for p in manifest.parts if p.role != "tokenizer"}


READ = [c for c in sorted(FAMILY_CASES) if c.startswith(("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"))]


@pytest.mark.oracle
@pytest.mark.parametrize("case", READ)
def test_float32_gives_the_same_bundle(case: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint(case, tmp_path / "ck")
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    expected, got = parts_of(checkpoint, tmp_path / "a"), parts_of(file, tmp_path / "b")
    models = [json.loads((tmp_path / b / "manifest.json").read_text())["model"] for b in "ab"]
    assert models[0] == models[1]
    assert got == expected
