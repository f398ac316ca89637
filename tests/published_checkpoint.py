"""A checkpoint with the tensors that a configuration asks for and no data: its files are holes."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

from published_tokenizers import tokenizer_json

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.router_data import router_arrays
from hobbit_export.arch import read_model
from hobbit_export.arch.names import Names, block_in
from hobbit_export.safetensors import DTYPE_BYTES

FOLDER = Path(__file__).with_name("published_configs")
MODELS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def read(model: str, name: str) -> dict[str, Any]:
    return json.loads((FOLDER / model / name).read_text())


def tensors_of(spec: ModelSpec, names: Names) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> type and shape of every tensor, under the first name the family accepts."""
    shapes = top_weight_shapes(spec)
    for layer_idx in range(spec.num_layers):
        shapes |= layer_weight_shapes(spec, layer_idx)
    if spec.tied_embeddings:
        shapes.pop("head", None)
    found = {}
    for canonical, shape in shapes.items():
        derived, layer = names.derived(canonical), canonical.split(".")[1:2]
        attention = spec.layers[int(layer[0])].attention if layer else None
        stored = shape if derived is None else derived.stored_shape(attention, shape)
        name = names.candidates(canonical)[0]
        if (block := block_in(name)) is not None:
            name, stored = block[0], (block[2] * stored[0], *stored[1:])
        found[name] = ("BF16", stored)
    for name, (kind, (layers, *shape)) in router_arrays(spec).items():
        for layer_idx in spec.sparse_layers[:layers]:
            tensor = names.candidates(f"layers.{layer_idx}.router_{name}")[0]
            found[tensor] = ("F32" if kind == "<f4" else "I64", tuple(shape))
    return found | _experts(spec, names)


def _experts(spec: ModelSpec, names: Names) -> dict[str, tuple[str, tuple[int, ...]]]:
    layout = next(layout for layout in names.layouts if layout.fits(spec.experts))
    sizes = (spec.num_experts, spec.hidden, spec.experts.intermediate)
    found = {}
    for layer_idx in spec.sparse_layers:
        for expert_idx in range(1 if layout.fused else spec.num_experts):
            for matrix in spec.experts.matrices:
                shape = layout.shape(matrix, *sizes)
                stored = (*shape[:-2], shape[-1], shape[-2]) if layout.transposed else shape
                found[layout.tensor(layer_idx, expert_idx, matrix)] = ("BF16", stored)
                if spec.experts.bias:
                    name = layout.tensor(layer_idx, expert_idx, matrix, bias=True)
                    found[name] = ("BF16", layout.bias_shape(matrix, *sizes))
    return found


def write(model: str, out: Path, more: dict[str, tuple[str, tuple[int, ...]]] | None = None) -> int:
    """Write the checkpoint of a published model, with further tensors if any; return its number of parameters."""
    out.mkdir(parents=True)
    for path in (FOLDER / model).iterdir():
        if path.name != "source.json":
            shutil.copy(path, out)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    config = read(model, "config.json")
    quantised = config.pop("quantization_config", {}).get("quant_method")
    tensors = tensors_of(*read_model(config, {}))
    stored = (_as_mxfp4(tensors) if quantised == "mxfp4" else tensors) | (more or {})
    write_holes(out / "model.safetensors", stored)
    return sum(math.prod(shape) for kind, shape in tensors.values() if kind != "I64")


def _as_mxfp4(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Fused experts as gpt-oss stores them: outputs first, 16 bytes and a scale for 32 inputs."""
    found = {}
    for name, (kind, shape) in tensors.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            found[name] = (kind, shape)
            continue
        experts, inputs, outputs = shape
        found[f"{name}_blocks"] = ("U8", (experts, outputs, inputs // 32, 16))
        found[f"{name}_scales"] = ("U8", (experts, outputs, inputs // 32))
    return found


def write_holes(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of these names, types and shapes whose data is a hole."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
