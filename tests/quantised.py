"""Random weights as quantised checkpoints store them, beside their values: packed here, from the formats' descriptions.

Values follow from codes and scales that are drawn first, so nothing of the exporter's unpacking is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from synthetic import write_raw

from edge_runtime.base.arrays import F32, I32, I64, U8

Stored = dict[str, tuple[str, NDArray[Any]]]
"""Tensor -> safetensors type and the raw numbers."""
Rng = np.random.Generator

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def e4m3(code: int) -> float:
    """Value of a finite E4M3 code: sign, four bits of exponent with bias 7, three of fraction."""
    sign, exponent, fraction = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    return sign * (fraction / 8 * 2**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


E4M3 = np.array([0.0 if code & 127 == 127 else e4m3(code) for code in range(256)], np.float32)


class Format(NamedTuple):
    """A format as tests use it.

    Attributes:
        config: `quantization_config`.
        make: (rng, name of the weight, [N, K]) -> what is stored, and the values.
    """

    config: dict[str, Any]
    make: Callable[[Rng, str, tuple[int, int]], tuple[Stored, F32]]


def write_stored(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
    """Write a safetensors file of any types."""
    header, at = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    write_raw(path, json.dumps(header).encode(), (array.tobytes() for _, array in tensors.values()))


def words(codes: NDArray[Any], bits: int) -> I32:
    """Pack the last dimension into 32-bit words, the first code lowest; the last word is filled with zeros."""
    per_word = 32 // bits
    count = -(-codes.shape[-1] // per_word)
    padded = np.zeros((*codes.shape[:-1], count * per_word), np.uint64)
    padded[..., : codes.shape[-1]] = codes
    shifts = (bits * np.arange(per_word)).astype(np.uint64)
    packed = (padded.reshape(*codes.shape[:-1], count, per_word) << shifts).sum(-1, dtype=np.uint64)
    return packed.astype(np.uint32).view(np.int32)


def _codes(rng: Rng, bits: int, shape: tuple[int, ...]) -> I64:
    """Integers around the middle of their range, the ends among them."""
    top = (1 << bits) - 1
    found = np.rint(rng.standard_normal(shape) * top / 6 + top / 2).clip(0, top).astype(np.int64)
    found.flat[:2] = 0, top
    return found


def _scales(rng: Rng, shape: tuple[int, ...], step: float, kind: Any = np.float16) -> NDArray[Any]:
    return (step * rng.uniform(0.5, 2, shape)).astype(kind)


def fp8(block: tuple[int, int] | None, suffix: str = "_scale_inv", *, per_row: bool = False) -> Format:
    """Blocks; without them a scale a row or a tensor."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        n, k = shape
        codes = (rng.integers(0, 2, shape) * 128 + rng.integers(0, 0x7F, shape)).astype(np.uint8)
        if block:
            scales = _scales(rng, (-(-n // block[0]), -(-k // block[1])), 2e-4, np.float32)
            whole = np.repeat(np.repeat(scales, block[0], 0), block[1], 1)[:n, :k]
        else:
            scales = _scales(rng, (n, 1) if per_row else (), 2e-4, np.float32)
            whole = np.broadcast_to(scales, shape)
        stored = {name: ("F8_E4M3", codes), name + suffix: ("F32", np.asarray(scales))}
        return stored, (E4M3[codes] * whole).astype(np.float32)

    size = list(block) if block else None
    return Format({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": size}, make)


def fp8_static() -> Format:
    """A scale a tensor, and one for activations, as AutoFP8 writes them: the configuration says nothing of blocks."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        stored, values = fp8(None, "_scale").make(rng, name, shape)
        stored[name.removesuffix("weight") + "input_scale"] = ("F32", np.array([0.5], np.float32))
        return stored, values

    ignored = ["lm_head", "model.layers.0.mlp.gate"]
    return Format({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ignored}, make)


def gptq(bits: int, group: int, *, version: int = 1, ordered: bool = False) -> Format:
    """Packed along the inputs; zero points from 1, which version 1 stores as 0."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        (n, k), module = shape, name.removesuffix(".weight")
        size = k if group == -1 else group
        groups = -(-k // size)
        codes, zeros = _codes(rng, bits, (n, k)), rng.integers(1, (1 << bits) - 1, (groups, n))
        scales = _scales(rng, (groups, n), 0.2 / (1 << bits))
        order = rng.permutation(np.arange(k) // size) if ordered else np.arange(k) // size
        stored: Stored = {
            f"{module}.qweight": ("I32", np.ascontiguousarray(words(codes, bits).T)),
            f"{module}.qzeros": ("I32", words(zeros - (version == 1), bits)),
            f"{module}.scales": ("F16", scales),
        }
        if ordered or bits == 8:  # both are published
            stored[f"{module}.g_idx"] = ("I32", order.astype(np.int32))
        return stored, _affine(codes, scales[order].T, zeros[order].T)

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": ordered, "sym": False}
    return Format(config | {"checkpoint_format": "gptq" if version == 1 else "gptq_v2"}, make)


def awq(group: int) -> Format:
    """Eight outputs a word, the even ones in its lower half."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        (n, k), module = shape, name.removesuffix(".weight")
        groups = k // group
        codes, zeros = _codes(rng, 4, (n, k)), rng.integers(0, 16, (groups, n))
        scales = _scales(rng, (groups, n), 0.0125)
        order = np.arange(n).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
        each = np.arange(k) // group
        return {
            f"{module}.qweight": ("I32", words(codes.T[:, order], 4)),
            f"{module}.qzeros": ("I32", words(zeros[:, order], 4)),
            f"{module}.scales": ("F16", scales),
        }, _affine(codes, scales[each].T, zeros[each].T)

    return Format({"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}, make)


def compressed(kind: str, **weights: Any) -> dict[str, Any]:
    """`quantization_config` of compressed-tensors with one group of modules."""
    group = {"targets": ["Linear"], "weights": {"dynamic": False, "symmetric": True, **weights}, "format": kind}
    return {
        "quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head", "re:.*mlp[.]gate$"],
    }  # fmt: skip


def packed(bits: int, group: int, *, symmetric: bool) -> Format:
    """pack-quantized: integers about 0, 2^(bits - 1) added, packed along the inputs; zero points along the outputs."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        (n, k), half = shape, 1 << (bits - 1)
        size = k if group == -1 else group
        codes = _codes(rng, bits, (n, k)) - half
        scales = _scales(rng, (n, k // size), 0.2 / (1 << bits))
        each, zeros = np.arange(k) // size, np.zeros((n, k // size), np.int64)
        stored: Stored = {
            f"{name}_packed": ("I32", words(codes + half, bits)),
            f"{name}_scale": ("F16", scales),
            f"{name}_shape": ("I64", np.array(shape, np.int64)),
        }
        if not symmetric:
            zeros = rng.integers(-half, half, (n, k // size))
            stored[f"{name}_zero_point"] = ("I32", np.ascontiguousarray(words((zeros + half).T, bits).T))
        return stored, _affine(codes, scales[:, each], zeros[:, each])

    strategy = (
        {"strategy": "channel", "group_size": None} if group == -1 else {"strategy": "group", "group_size": group}
    )
    options = {"num_bits": bits, "type": "int", "symmetric": symmetric, **strategy}
    return Format(compressed("pack-quantized", **options), make)


def nvfp4(*, modelopt: bool) -> Format:
    """E2M1 in blocks of 16; the outer scale divides (compressed-tensors) or multiplies (ModelOpt)."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        codes = rng.integers(0, 16, shape).astype(np.uint8)
        scales = rng.integers(0x20, 0x60, (shape[0], shape[1] // 16)).astype(np.uint8)
        outer = np.float32(0.003) if modelopt else np.float32(333)
        block = E4M3[scales] * outer if modelopt else E4M3[scales] / outer
        values = (signed(codes) * np.repeat(block, 16, 1)).astype(np.float32)
        names = ("", "_scale", "_scale_2") if modelopt else ("_packed", "_scale", "_global_scale")
        return {
            name + names[0]: ("U8", halves(codes)),
            name + names[1]: ("F8_E4M3", scales),
            name + names[2]: ("F32", np.array(outer) if modelopt else np.array([outer])),
        }, values

    ours = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"], "producer": {"name": "modelopt"}}
    theirs = compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)
    return Format(ours if modelopt else theirs, make)


def mxfp4_linear() -> Format:
    """compressed-tensors' MXFP4: a power of two for 32 inputs."""

    def make(rng: Rng, name: str, shape: tuple[int, int]) -> tuple[Stored, F32]:
        codes = rng.integers(0, 16, shape).astype(np.uint8)
        scales = rng.integers(118, 123, (shape[0], shape[1] // 32)).astype(np.uint8)
        values = signed(codes) * np.repeat(np.float32(2) ** (scales.astype(np.float32) - 127), 32, 1)
        return {f"{name}_packed": ("U8", halves(codes)), f"{name}_scale": ("U8", scales)}, values.astype(np.float32)

    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
    return Format(compressed("mxfp4-pack-quantized", **weights), make)


def mxfp4_experts(rng: Rng, name: str, experts: int, n: int, k: int) -> tuple[Stored, F32]:
    """Fused experts of gpt-oss; the values are [E, N, K]."""
    codes = rng.integers(0, 16, (experts, n, k // 32, 32)).astype(np.uint8)
    scales = rng.integers(118, 123, (experts, n, k // 32)).astype(np.uint8)
    values = signed(codes) * np.float32(2) ** (scales[..., None].astype(np.float32) - 127)
    stored: Stored = {f"{name}_blocks": ("U8", halves(codes)), f"{name}_scales": ("U8", scales)}
    return stored, values.reshape(experts, n, k).astype(np.float32)


def signed(codes: U8) -> F32:
    """Values of E2M1 codes, the top bit being the sign."""
    return np.where(codes & 8, -E2M1[codes & 7], E2M1[codes & 7]).astype(np.float32)


def halves(codes: U8) -> U8:
    """Two codes a byte, the first in the lower half."""
    return np.ascontiguousarray(codes[..., 0::2] | codes[..., 1::2] << 4)


def _affine(codes: I64, scales: NDArray[Any], zeros: I64) -> F32:
    return (scales.astype(np.float64) * (codes - zeros)).astype(np.float32)


FORMATS: dict[str, Format] = {
    "fp8_block": fp8((128, 128)),
    "fp8_narrow_block": fp8((16, 48)),
    "fp8_tensor": fp8(None, "_scale"),
    "fp8_row": fp8(None, "_scale", per_row=True),
    "gptq4": gptq(4, 32),
    "gptq4_v2": gptq(4, 64, version=2),
    "gptq4_ordered": gptq(4, 32, ordered=True),
    "gptq8": gptq(8, 32),
    "gptq2_one_group": gptq(2, -1),
    "awq": awq(32),
    "packed4": packed(4, 32, symmetric=True),
    "packed4_asymmetric": packed(4, 64, symmetric=False),
    "packed4_channel": packed(4, -1, symmetric=True),
    "packed8": packed(8, 32, symmetric=True),
    "nvfp4": nvfp4(modelopt=False),
    "modelopt_nvfp4": nvfp4(modelopt=True),
    "mxfp4_linear": mxfp4_linear(),
}
