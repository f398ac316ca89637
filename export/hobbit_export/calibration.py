"""calibration/: what quantisation does to each expert, how often a text uses it, and the self-check's reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.spec import ModelSpec
from hobbit_export.reference import num_reference_tokens, reference_logits, reference_tokens
from hobbit_export.source import SourceModel

EXPERTS = "calibration/experts.json"
REFERENCE = "calibration/reference.npz"
MAX_CALIBRATION_TOKENS = 4096


def experts_json(spec: ModelSpec, errors: dict[int, dict[str, list[float]]], counts: dict[str, Any] | None) -> bytes:
    """Bytes of calibration/experts.json.

    Args:
        spec: the model.
        errors: layer -> tier (as text) -> relative weight error of each expert.
        counts: `{"tokens": n, "layers": {layer: [uses of each expert]}}`, or None without a text.
    """
    data = {
        "version": 1,
        "layers": [
            {
                "layer": i,
                "errors": {tier: [round(e, 6) for e in row] for tier, row in errors[i].items()},
                "counts": counts["layers"][str(i)] if counts else None,
            }
            for i in spec.sparse_layers
        ],
        "tokens": counts["tokens"] if counts else None,
    }
    return (json.dumps(data, separators=(",", ":")) + "\n").encode()


def write_reference(source: SourceModel, path: Path, memory_bytes: int) -> None:
    """Write token ids int32 [T] and the source model's logits float32 [T, V]."""
    ids = reference_tokens(source.spec, num_reference_tokens(source))
    logits = reference_logits(source, ids, memory_bytes)
    if not np.isfinite(logits).all():
        raise ConfigError("reference logits: expected finite numbers, got infinity or NaN. Is the checkpoint sound?")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(file, token_ids=ids, logits=logits)


def check_text(path: Path) -> None:
    """Refuse a calibration text that cannot be used, before any work.

    Raises:
        ConfigError: unreadable, empty, or the runtime cannot count routing.
    """
    try:
        empty = not path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"--calibrate {path}: cannot be read as UTF-8 text: {err}. Give a plain text file.") from err
    if empty:
        raise ConfigError(f"--calibrate {path}: expected text, the file is empty. Give one like the model will see.")
    from edge_runtime.engine import Engine

    if not hasattr(Engine, "routing_counts"):
        raise ConfigError("--calibrate: the runtime of this version cannot count expert uses yet. Leave the flag out.")


def count_uses(bundle: Path, text: Path, memory_bytes: int) -> dict[str, Any]:
    """Run a text through the finished bundle and count how often each expert is chosen.

    Returns:
        `{"tokens": n, "layers": {layer: [uses of each expert]}}` with layers as text.
    """
    from edge_runtime.engine import Engine

    with Engine.open(bundle, memory=memory_bytes, policy="lossless", self_check=False) as engine:
        counts = engine.routing_counts(text.read_text("utf-8"), max_tokens=MAX_CALIBRATION_TOKENS)
    return {"tokens": counts.tokens, "layers": {str(i): [int(n) for n in row] for i, row in counts.layers.items()}}
