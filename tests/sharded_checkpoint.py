"""A checkpoint of several files with an index, plain or with experts and attention in a format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from quantised import FORMATS, write_stored
from synthetic import bfloat16, qwen3_shapes, write_tokenizer

from hobbit_export.shards import INDEX


def write_sharded(
    folder: Path, config: dict[str, Any], format_name: str = "", dtype: str = "BF16", shards: int = 3
) -> Path:
    """Write a checkpoint of several files; its routed experts and attention in a format, if one is named."""
    rng, stored = np.random.default_rng(0), {}
    for name, shape in qwen3_shapes(config).items():
        if format_name and ("experts" in name or "self_attn" in name) and len(shape) == 2:
            parts, _ = FORMATS[format_name].make(rng, name, (shape[0], shape[1]))
            stored |= parts
        else:
            values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)
            stored[name] = (dtype, bfloat16(values) if dtype == "BF16" else values)
    folder.mkdir(parents=True)
    extra = {"quantization_config": FORMATS[format_name].config} if format_name else {}
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16", **extra}))
    write_tokenizer(folder)
    index: dict[str, Any] = {"metadata": {"total_size": sum(a.nbytes for _, a in stored.values())}, "weight_map": {}}
    for i in range(shards):
        name, tensors = f"model-{i + 1:05d}-of-{shards:05d}.safetensors", dict(list(stored.items())[i::shards])
        write_stored(folder / name, tensors)
        index["weight_map"] |= dict.fromkeys(tensors, name)
    (folder / INDEX).write_text(json.dumps(index))
    return folder
