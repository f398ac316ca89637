"""GGUF files made from tiny checkpoints, the way llama.cpp's converter makes them, with the `gguf` package's writer.

Written from the converter's description of each architecture, not from the exporter: names come from the package's own
table, experts of a layer are stacked, heads of the llama family are permuted by reshaping.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import gguf_gemma as gemma
import gguf_hybrids as hybrids
import gguf_recurrent as recurrent
import numpy as np
from gguf_sizes import add_sizes
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32, U8
from hobbit_export.checkpoint import Checkpoint

ARCHITECTURES = {
    "gemma4_text": "gemma4", "gpt_oss": "gpt-oss", "granitemoe": "granitemoe", "granitemoeshared": "granitemoe",
    "mixtral": "llama",
    "olmoe": "olmoe", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "qwen3_vl_moe": "qwen3vlmoe",
    "qwen3_next": "qwen3next", "qwen3_5_moe_text": "qwen35moe", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "glm4_moe_lite": "deepseek2", "glm4_moe": "glm4moe", "dots1": "dots1", "ernie4_5_moe": "ernie4_5-moe",
    "hunyuan_v1_moe": "hunyuan-moe", "minimax_m2": "minimax-m2", "lfm2_moe": "lfm2moe", "nemotron_h": "nemotron_h_moe",
    "kimi_linear": "kimi-linear", "granitemoehybrid": "granitehybrid", "phimoe": "phimoe",
}  # fmt: skip
Store = Callable[[str, F32], tuple[NDArray[Any], gguf.GGMLQuantizationType | None]]
"""Name and values of a tensor -> what is written, and its type where the array does not say it."""


def as_f32(name: str, values: F32) -> tuple[NDArray[Any], None]:
    return values, None


def stored_as(kind: str, but: Callable[[str], bool] = lambda name: False) -> Store:
    """Matrices of this type, vectors (and what `but` names) in float32."""
    number = gguf.GGMLQuantizationType[kind]

    def store(name: str, values: F32) -> tuple[NDArray[Any], gguf.GGMLQuantizationType | None]:
        if values.ndim < 2 or but(name):
            return values, None
        return gguf.quants.quantize(values, number), number

    return store


HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
}  # fmt: skip
"""Quantised types, and where the float16 numbers of a block are."""


def random_blocks(kind: str, *shape: int, seed: int = 0) -> U8:
    """Blocks of any bits at all, but for scales that are small numbers; `shape` counts weights."""
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // weights, size), np.uint8)
    for at in HALVES[kind]:
        scales = rng.uniform(1e-4, 3e-3, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == "MXFP4":
        blocks[:, 0] = rng.integers(118, 122, len(blocks))
    return blocks.reshape(*shape[:-1], -1)


def as_blocks(kinds: Callable[[str], str], *, decoded: bool = False) -> Store:
    """Matrices of random blocks of the type a name has, or float32 numbers that are those blocks decoded."""

    def store(name: str, values: F32) -> tuple[NDArray[Any], gguf.GGMLQuantizationType | None]:
        if values.ndim < 2:
            return values, None
        number = gguf.GGMLQuantizationType[kinds(name)]
        blocks = random_blocks(kinds(name), *values.shape, seed=zlib.crc32(name.encode()))
        return (gguf.quants.dequantize(blocks, number), None) if decoded else (blocks, number)

    return store


def write_gguf(
    checkpoint: Path, out: Path, store: Store = as_f32, *, pre: str = "gpt-2", splits: int = 0,
    joined: bool = False, **keys: Any,
) -> Path:  # fmt: skip
    """Write a checkpoint as GGUF; `splits`: at most so many tensors a file; `joined`: see `gguf_hybrids.changed`.

    Returns:
        The file, or the first of several.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    config = gemma.flat(config.get("text_config", {}) | config)
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(out, architecture, split_max_tensors=splits)
    add_sizes(writer, config)
    add_vocabulary(writer, checkpoint, config["vocab_size"], pre)
    for key, value in keys.items():
        _add(writer, key.replace("__", "."), value)
    for name, values in tensors_of(checkpoint, config, architecture, joined=joined).items():
        data, kind = store(name, values)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(out.parent.glob(f"{out.stem}-00001-of-*.gguf"))), out)


def tensors_of(
    checkpoint: Path, config: Mapping[str, Any], architecture: str, *, joined: bool = False
) -> dict[str, F32]:  # fmt: skip
    """Every tensor under its GGUF name."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(
        numbers[architecture], config.get("num_hidden_layers") or len(config["layers_block_type"])
    )
    with Checkpoint.open(checkpoint) as opened:
        tensors = {name: opened.tensor_f32(name) for name in opened.tensors if not name.startswith("model.visual.")}
    if architecture in ("llama", "granitemoe", "granitehybrid"):
        tensors = {name: _permuted(name, values, config) for name, values in tensors.items()}
    if architecture == "gemma4":
        tensors = gemma.renamed(tensors, config)
    if architecture in ("qwen3next", "qwen35moe"):
        tensors = recurrent.changed(tensors, config)
    else:
        tensors = hybrids.changed(tensors, config, joined=joined)
    found: dict[str, F32] = {}
    for name, values in _apart(_stacked(tensors), config).items():
        plain = name.replace("model.language_model.", "model.").replace("block_sparse_moe.experts", "mlp.experts")
        if ".mixer.experts." in plain:
            plain = plain.replace("backbone.layers", "model.layers").replace("mixer.experts", "mlp.experts")
        mapped = (
            plain
            if plain.startswith(("blk.", "rope_freqs"))
            else table.get_name(plain, try_suffixes=(".weight", ".bias"))
        )
        if mapped is None:
            raise ValueError(f"{name}: the architecture has no such tensor")
        found[mapped] = np.ascontiguousarray(values)
    rope = config.get("rope_parameters") or {}
    factors = {f"rope_factors_{name}.weight": rope.get(f"{name}_factor") for name in ("short", "long")}
    return found | {name: np.array(values, np.float32) for name, values in factors.items() if values is not None}


def _permuted(name: str, values: F32, config: Mapping[str, Any]) -> F32:
    """Rows of q and k, and numbers of their biases, as the converter of the llama family orders them."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return values
    heads = config["num_attention_heads"]
    heads = heads if ".q_proj." in name else config.get("num_key_value_heads") or heads
    shape = (heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return values.reshape(shape).swapaxes(1, 2).reshape(values.shape)


def _stacked(tensors: Mapping[str, F32]) -> dict[str, F32]:
    """Experts that have a tensor each, stacked."""
    found: dict[str, F32] = {}
    each: dict[str, dict[int, F32]] = {}
    matrices = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for name, values in tensors.items():
        block, _, rest = name.partition(".experts.")
        if rest[:1].isdigit():
            expert, matrix, _ = rest.split(".")
            each.setdefault(f"{block}.experts.{matrices.get(matrix, matrix)}.weight", {})[int(expert)] = values
        else:
            found[name] = values
    return found | {name: np.stack([experts[i] for i in range(len(experts))]) for name, experts in each.items()}


def _apart(tensors: Mapping[str, F32], config: Mapping[str, Any]) -> dict[str, F32]:
    """Gate and up of fused tensors apart, turned where the family stores inputs first; suffixes as the tables have."""
    family = config["model_type"]
    found: dict[str, F32] = {}
    for name, values in tensors.items():
        block, _, last = name.rpartition(".")
        layer = name.split(".layers.")[-1].split(".")[0]
        turned = values.swapaxes(1, 2) if family == "gpt_oss" and values.ndim == 3 else values
        if last == "gate_up_proj_bias":
            found |= {f"{block}.gate_proj.bias": values[:, ::2], f"{block}.up_proj.bias": values[:, 1::2]}
        elif last == "down_proj_bias":
            found[f"{block}.down_proj.bias"] = values
        elif last == "gate_up_proj":
            halves = (turned[:, ::2], turned[:, 1::2]) if family == "gpt_oss" else np.split(turned, 2, axis=1)
            found |= {f"{block}.gate_proj.weight": halves[0], f"{block}.up_proj.weight": halves[1]}
        elif last == "down_proj" and values.ndim == 3:
            found[f"{block}.down_proj.weight"] = turned
        elif name.endswith("_linear.weight"):  # Granite's
            kind = "shexp" if "shared_mlp" in name else "exps"
            if "input" in name:
                gate, up = np.split(values, 2, axis=-2)
                found |= {f"blk.{layer}.ffn_gate_{kind}.weight": gate, f"blk.{layer}.ffn_up_{kind}.weight": up}
            else:
                found[f"blk.{layer}.ffn_down_{kind}.weight"] = values
        else:
            found[f"{name}.weight" if last == "sinks" else name] = values
    return found


def add_vocabulary(writer: gguf.GGUFWriter, folder: Path, vocab_size: int, pre: str) -> None:
    """Write the byte-level vocabulary of a folder's tokenizer.json, filled up to the model's."""
    data = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token for token in data["added_tokens"]}
    ids = {i: token for token, i in data["model"]["vocab"].items()} | {t["id"]: t["content"] for t in added.values()}
    tokens = [ids.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    types = [
        gguf.TokenType.UNUSED if i not in ids
        else gguf.TokenType.NORMAL if token not in added
        else gguf.TokenType.CONTROL if added[token]["special"]
        else gguf.TokenType.USER_DEFINED
        for i, token in enumerate(tokens)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    if merges:  # the writer refuses an empty array
        writer.add_token_merges(merges)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("bos", "eos"):
        if config.get(f"{name}_token") in added:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", added[config[f"{name}_token"]]["id"])
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        list: writer.add_array,
    }  # fmt: skip
    adders[type(value)](key, value)
