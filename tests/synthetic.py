"""Checkpoints written byte by byte with numpy: no torch, any size, any lie in the header."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from families import write_tokenizer
from numpy.typing import NDArray
from patience import PATIENCE_S

from edge_runtime.base.arrays import F32, U16

DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "uint8": "U8", "int64": "I64"}


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays; uint16 stands for bfloat16."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    write_raw(path, json.dumps(header).encode(), (a.tobytes() for a in tensors.values()))


def write_raw(path: Path, header: bytes, data: Iterable[bytes]) -> None:
    """Write a file with any header at all."""
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for block in data:
            file.write(block)


def qwen3_config(hidden: int, intermediate: int, experts: int, layers: int, **options: Any) -> dict[str, Any]:
    """config.json of a qwen3_moe model."""
    return {
        "model_type": "qwen3_moe", "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "moe_intermediate_size": intermediate, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "num_experts": experts, "num_experts_per_tok": 2, "vocab_size": 512, "max_position_embeddings": 256,
        "norm_topk_prob": True, "eos_token_id": 256, **options,
    }  # fmt: skip


def qwen3_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a qwen3_moe checkpoint."""
    d, i, v = config["hidden_size"], config["moe_intermediate_size"], config["vocab_size"]
    c = config["head_dim"]
    q, kv = config["num_attention_heads"] * c, config["num_key_value_heads"] * c
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (v, d), "model.norm.weight": (d,),
        **({} if config.get("tie_word_embeddings") else {"lm_head.weight": (v, d)}),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes |= {
            f"{p}input_layernorm.weight": (d,), f"{p}post_attention_layernorm.weight": (d,),
            f"{p}self_attn.q_proj.weight": (q, d), f"{p}self_attn.k_proj.weight": (kv, d),
            f"{p}self_attn.v_proj.weight": (kv, d), f"{p}self_attn.o_proj.weight": (d, q),
            f"{p}self_attn.q_norm.weight": (c,), f"{p}self_attn.k_norm.weight": (c,),
            f"{p}mlp.gate.weight": (config["num_experts"], d),
        }  # fmt: skip
        for expert in range(config["num_experts"]):
            e = f"{p}mlp.experts.{expert}."
            shapes |= {f"{e}gate_proj.weight": (i, d), f"{e}up_proj.weight": (i, d), f"{e}down_proj.weight": (d, i)}
    return shapes


def write_qwen3(out: Path, config: Mapping[str, Any], seed: int = 0, *, norms: float = 0.0) -> Path:
    """Write a random bfloat16 checkpoint, one tensor in memory at a time.

    Args:
        out: directory, created if needed.
        config: its config.json.
        seed: of the weights.
        norms: about what the weights of norms are: from a few tenths on routers prefer some experts, and layers change
            what passes them.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config))
    write_tokenizer(out)
    shapes = qwen3_shapes(config)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(1 << 20, np.float32) * np.float32(0.05)
    of_matrices = bfloat16(values)
    of_norms = bfloat16(values + np.float32(norms))

    def blocks() -> Iterable[bytes]:
        for shape in shapes.values():
            left = int(np.prod(shape))
            pool = of_norms if len(shape) == 1 else of_matrices
            while left > 0:
                part = pool[int(rng.integers(0, 1000)) :][:left]
                left -= len(part)
                yield part.tobytes()

    write_raw(out / "model.safetensors", json.dumps(header).encode(), blocks())
    return out


def bfloat16(values: F32) -> U16:
    """Upper halves of float32 values: bfloat16, truncated."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def hobbit_export(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command with this interpreter and this source tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "hobbit_export", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def run_export(*arguments: object) -> tuple[int, str, str]:
    """Run the command to its end: exit code, stdout, stderr."""
    process = hobbit_export(*arguments)
    out, err = process.communicate(timeout=5 * PATIENCE_S)
    return process.returncode, out, err
