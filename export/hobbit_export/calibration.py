"""calibration/: what quantisation does to each expert, and the self-check's reference."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.calibration import NAME, VERSION
from hobbit_export.reference import num_reference_tokens, reference_logits, reference_tokens
from hobbit_export.source import SourceModel

_MOST_TEXT_BYTES = 1 << 18
"""Twenty for each of the 12,288 tokens that are run at most; a tokenizer takes some hundred times as many."""
EXPERTS = NAME
REFERENCE = "calibration/reference.npz"


def experts_json(spec: ModelSpec, errors: dict[int, dict[str, list[float]]], measured: dict[str, Any] | None) -> bytes:
    """Bytes of calibration/experts.json.

    Args:
        spec: the model.
        errors: layer -> tier (as text) -> relative weight error of each expert.
        measured: what `hobbit_export.quality.measure_quality` found on a text, or None without one.
    """
    of_layer: dict[str, dict[str, Any]] = measured["layers"] if measured else {}
    layers = [
        {"layer": i, "errors": {tier: [round(e, 6) for e in row] for tier, row in errors[i].items()}}
        | of_layer.get(str(i), {})
        for i in spec.sparse_layers
    ]
    rest = {key: value for key, value in measured.items() if key != "layers"} if measured else {}
    data = {"version": VERSION, "layers": layers} | rest
    return (json.dumps(data, separators=(",", ":")) + "\n").encode()


def write_reference(source: SourceModel, path: Path, memory_bytes: int, jobs: int = 1) -> None:
    """Write token ids int32 [T] and the source model's logits float32 [T, V].

    Where rotation depends on how long a sequence may grow, the logits of long ones come along.
    """
    ids = reference_tokens(source.spec, num_reference_tokens(source))
    arrays: dict[str, Any] = {"logits": reference_logits(source, ids, memory_bytes, jobs)}
    alike = source.spec.longest_alike
    if alike is not None and alike < source.spec.context_limit:
        arrays["long_logits"] = reference_logits(source, ids, memory_bytes, jobs, context=alike + 1)
    if not all(np.isfinite(logits).all() for logits in arrays.values()):
        raise ConfigError("reference logits: expected finite numbers, got infinity or NaN. Is the checkpoint sound?")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(file, token_ids=ids, **arrays)


def read_beginning(path: Path) -> str:
    """Return the beginning of a text, whole characters: all of it that is ever run.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open(path, "rb") as file:
        raw = file.read(_MOST_TEXT_BYTES)
    return codecs.getincrementaldecoder("utf-8")().decode(raw, final=len(raw) < _MOST_TEXT_BYTES)


def check_text(path: Path) -> None:
    """Refuse a calibration text that cannot be used, before any work.

    Raises:
        ConfigError: unreadable or empty.
    """
    try:
        empty = not read_beginning(path).strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"--calibrate {path}: cannot be read as UTF-8 text: {err}. Give a plain text file.") from err
    if empty:
        raise ConfigError(f"--calibrate {path}: expected text, the file is empty. Give one like the model will see.")
