"""Quantised weights are decoded to what their formats mean: against packing written for tests, and foreign decoders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quantised import E4M3, FORMATS, Stored, compressed, fp8, fp8_static, mxfp4_experts, write_stored

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import find_weights
from hobbit_export.formats.config import take
from hobbit_export.weights import Weight

NAME = "model.layers.0.mlp.experts.1.up_proj.weight"


def weight_of(folder: Path, stored: Stored, config: dict[str, Any], name: str = NAME) -> Weight:
    """Open a checkpoint of these tensors and return its weight."""
    write_stored(folder / "model.safetensors", stored)
    weights, left_out = find_weights(Checkpoint.open(folder), config)
    found = {each for each in weights if not any(rule.pattern.fullmatch(each) for rule in left_out)}
    assert found == {name}, "every stored part belongs to the weight, or is left out by name"
    return weights[name]


@pytest.mark.parametrize("shape", [(48, 192), (64, 384)], ids=str)
@pytest.mark.parametrize("name", list(FORMATS))
def test_values(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    """Bit for bit what the codes and scales say, for all rows and for ranges that begin and end anywhere."""
    stored, values = FORMATS[name].make(np.random.default_rng(5), NAME, shape)
    weight = weight_of(tmp_path, stored, FORMATS[name].config)
    assert (weight.shape, weight.dtype) == (shape, "F32")
    assert weight.num_bytes == sum(array.nbytes for _, array in stored.values())
    assert np.array_equal(weight.read(0, shape[0]), values)
    for start, stop in ((0, 1), (3, 3), (5, 6), (7, 41), (shape[0] - 3, shape[0])):
        assert weight.read(start, stop).tobytes() == values[start:stop].tobytes()


@pytest.mark.parametrize("block", [(128, 128), None])
def test_fp8_as_transformers_reads_it(tmp_path: Path, block: tuple[int, int] | None) -> None:
    torch = pytest.importorskip("torch")
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    torch.manual_seed(0)
    codes = (torch.randn(200, 320) * 40).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3) * 1e-3 if block else torch.rand(()) * 1e-3
    stored: Stored = {
        NAME: ("F8_E4M3", codes.view(torch.uint8).numpy()),
        f"{NAME}_scale_inv": ("F32", scales.numpy()),
    }
    wanted = _dequantize_fp8_weight(codes, scales, list(block) if block else None, torch.float32).numpy()
    weight = weight_of(tmp_path, stored, {"quant_method": "fp8", "weight_block_size": list(block) if block else None})
    assert np.array_equal(weight.read(0, 200), wanted)


@pytest.mark.parametrize("shape", [(48, 192), (192, 384)], ids=str)
def test_fp8_whose_configuration_says_nothing_of_blocks(tmp_path: Path, shape: tuple[int, int]) -> None:
    """As AutoFP8 writes it, a scale a tensor; transformers assumes blocks, and they are read where scales are theirs."""
    for number, form in enumerate((fp8_static(), fp8((128, 128)))):
        stored, values = form.make(np.random.default_rng(5), NAME, shape)
        (folder := tmp_path / str(number)).mkdir()
        config = {key: value for key, value in form.config.items() if key != "weight_block_size"}
        weight = weight_of(folder, stored, config)
        assert np.array_equal(weight.read(0, weight.rows), values)


def test_every_fp8_value_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    numbers = ~np.isnan(values)
    assert np.array_equal(E4M3[numbers], values[numbers])
    assert numbers.sum() == 254


def test_mxfp4_as_transformers_reads_it(tmp_path: Path) -> None:
    """Experts of gpt-oss: adapters know them with inputs before outputs, and read them turned."""
    torch = pytest.importorskip("torch")
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    name = "model.layers.0.mlp.experts.gate_up_proj"
    stored, values = mxfp4_experts(np.random.default_rng(1), name, 3, 40, 96)
    blocks, scales = (torch.from_numpy(array) for _, array in stored.values())
    wanted = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    weight = weight_of(tmp_path, stored, {"quant_method": "mxfp4"}, name)
    assert weight.shape == wanted.shape == (3, 96, 40)
    turned = weight.transposed()
    assert np.array_equal(turned.read(0, 120).reshape(3, 40, 96), wanted.transpose(0, 2, 1))
    assert np.array_equal(turned.read(37, 83), values.reshape(120, 96)[37:83])
    with pytest.raises(BundleError, match="mxfp4 is read by rows of outputs only"):
        weight.read(0, 1)


COMPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    "int4_group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "int4_group_asymmetric": (
        "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False}
    ),
    "int4_channel": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
    "int8_channel_asymmetric": ("pack-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
    "int8_naive": ("naive-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8_tensor": ("naive-quantized", {"num_bits": 8, "strategy": "tensor"}),
    "fp8_channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8_tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8_block": (
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 32]}
    ),
    "nvfp4": ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
}  # fmt: skip


def _scale_shape(options: dict[str, Any], n: int, k: int) -> tuple[int, ...]:
    if options["strategy"] == "block":
        rows, cols = options["block_structure"]
        return -(-n // rows), -(-k // cols)
    return {"tensor": (1,), "channel": (n, 1)}.get(options["strategy"], (n, k // options.get("group_size", k)))


@pytest.mark.parametrize("case", list(COMPRESSED))
def test_what_compressed_tensors_writes(tmp_path: Path, case: str) -> None:
    """The library compresses and decompresses; the exporter reads the same values from what was compressed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind, options = COMPRESSED[case]
    n, k = 48, 192
    torch.manual_seed(3)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**options))
    state = {"weight": torch.randn(n, k) * 0.05, "weight_scale": torch.rand(_scale_shape(options, n, k)) * 0.01 + 0.004}
    if kind == "nvfp4-pack-quantized":
        state["weight_scale"] = (torch.rand(n, k // 16) * 10 + 1).to(torch.float8_e4m3fn).float()
        state["weight_global_scale"] = torch.tensor([900.0])
    if kind == "mxfp4-pack-quantized":
        state["weight_scale"] = 2.0 ** torch.randint(-8, -3, (n, k // 32)).float()
    if not options.get("symmetric", True):
        half = 1 << (options["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-half, half, state["weight_scale"].shape).to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(kind)
    small = compressor.compress(state, scheme)
    wanted = compressor.decompress(dict(small), scheme)["weight"]
    stored = {NAME.replace("weight", name): _stored(tensor) for name, tensor in small.items()}
    weight = weight_of(tmp_path, stored, compressed(kind, **options))
    found = weight.read(0, n)
    assert wanted.abs().max() > 0.02
    assert wanted.dtype == (torch.bfloat16 if kind.startswith(("nvfp4", "mxfp4")) else torch.float32)
    assert torch.equal(torch.from_numpy(found).to(wanted.dtype), wanted)
    assert np.array_equal(weight.read(11, 30), found[11:30])


def _stored(tensor: Any) -> tuple[str, NDArray[Any]]:
    import torch

    kinds = {torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32", torch.int32: "I32", torch.int64: "I64",
             torch.int8: "I8", torch.uint8: "U8"}  # fmt: skip
    kind = kinds[tensor.dtype]
    return kind, (tensor.view(torch.uint8) if kind == "F8_E4M3" else tensor).contiguous().numpy()


def test_fused_experts_in_fp8(tmp_path: Path) -> None:
    """Blocks begin anew with every expert, also where they do not fill its rows."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 0x7F, (3, 40, 64)).astype(np.uint8)
    scales = rng.uniform(1e-4, 1e-3, (3, 2, 2)).astype(np.float32)
    name = "model.layers.0.mlp.experts.down_proj"
    stored: Stored = {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scales)}
    weight = weight_of(tmp_path, stored, {"quant_method": "fp8", "weight_block_size": [32, 32]}, name)
    whole = np.repeat(np.repeat(scales, 32, 1)[:, :40], 32, 2)
    assert np.array_equal(weight.read(0, 120).reshape(3, 40, 64), E4M3[codes] * whole)
    assert np.array_equal(weight.read(30, 95), (E4M3[codes] * whole).reshape(120, 64)[30:95])


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("fp8_block", {"quant_method": "bitsandbytes"}, "quant_method: expected one of .*gptq.*, got 'bitsandbytes'"),
    ("fp8_block", {"quant_method": "gptg"}, "Did you mean 'gptq'"),
    ("fp8_block", {"quant_method": None}, "quant_method: expected one of"),
    ("fp8_block", {"rotation": "hadamard"}, "unsupported option 'rotation' = 'hadamard'"),
    ("fp8_block", {"fmt": "e5m2"}, "unsupported option 'fmt' = 'e5m2'"),
    ("fp8_block", {"expert_dtype": "fp4"}, "unsupported option 'expert_dtype'"),
    ("fp8_block", {"weight_block_size": [128]}, "weight_block_size: expected two sizes or null"),
    ("fp8_block", {"weight_block_size": [0, 128]}, "weight_block_size: expected two sizes or null"),
    ("fp8_block", {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert: expected a list of names"),
    ("gptq4", {"bits": 3}, "unsupported option 'bits' = 3"),
    ("gptq4", {"checkpoint_format": "marlin"}, "unsupported option 'checkpoint_format' = 'marlin'"),
    ("gptq4", {"is_marlin_format": True}, "unsupported option 'is_marlin_format'"),
    ("gptq4", {"group_size": 0}, "group_size: expected a size or -1, got 0"),
    ("gptq4", {"dynamic": {"+:(a+)+$": {}}}, "dynamic: expected a pattern"),
    ("gptq4", {"dynamic": {"+:.*": {"act": 1}}}, r"dynamic\['\+:\.\*'\]: unsupported option 'act'"),
    ("awq", {"version": "gemv"}, "unsupported option 'version' = 'gemv'"),
    ("awq", {"zero_point": False}, "unsupported option 'zero_point'"),
    ("packed4", {"format": "marlin-24"}, "unsupported option 'format' = 'marlin-24'"),
    ("packed4", {"transform_config": {"R1": {}}}, "unsupported option 'transform_config'"),
    ("packed4", {"sparsity_config": {"format": "sparse-bitmask"}}, "unsupported option 'sparsity_config'"),
    ("packed4", {"config_groups": {}}, "config_groups: expected an object of objects"),
    ("packed4", {"ignore": ["re:(((a|b)*)*)*"]}, "expected a pattern of at most"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED, ids=[f"{r[0]}-{next(iter(r[1]))}" for r in REFUSED])
def test_options_that_change_something_are_refused(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    stored, _ = FORMATS[name].make(np.random.default_rng(0), NAME, (48, 192))
    with pytest.raises(ConfigError, match=message):
        weight_of(tmp_path, stored, FORMATS[name].config | change)


@pytest.mark.parametrize("name", ["fp8_block", "gptq4", "awq", "packed4", "modelopt_nvfp4"])
@pytest.mark.parametrize("ignored", ["model.layers.0.mlp.experts.1.up_proj", "model.layers.0", "model.*.mlp.experts"])
def test_a_module_that_is_said_to_be_plain(tmp_path: Path, name: str, ignored: str) -> None:
    stored, _ = FORMATS[name].make(np.random.default_rng(0), NAME, (48, 192))
    config = copy.deepcopy(FORMATS[name].config)
    config["ignore" if "ignore" in config else "modules_to_not_convert"] = [ignored]
    with pytest.raises(BundleError, match="is quantised, but config.json: quantization_config says that"):
        weight_of(tmp_path, stored, config)


def test_gptq_options_of_single_modules(tmp_path: Path) -> None:
    """The first pattern that matches counts; one that excludes a module contradicts what is stored."""
    wide, narrow = FORMATS["gptq8"], FORMATS["gptq4"]
    stored, values = wide.make(np.random.default_rng(0), NAME, (48, 192))
    rules = {r"-:.*self_attn.*": {}, r"+:.*\.experts\.1\..*": {"bits": 8, "group_size": 32}, ".*": {"bits": 2}}
    weight = weight_of(tmp_path, stored, narrow.config | {"dynamic": rules})
    assert np.array_equal(weight.read(0, 48), values)
    with pytest.raises(BundleError, match="is quantised, but"):
        weight_of(tmp_path, stored, wide.config | {"dynamic": {r"-:.*experts.*": {}}})


def test_quantisation_without_a_configuration(tmp_path: Path) -> None:
    for name, form in FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        write_stored(folder / "model.safetensors", form.make(np.random.default_rng(0), NAME, (48, 192))[0])
        with pytest.raises(BundleError, match="looks quantised, but config.json has no quantization_config"):
            find_weights(Checkpoint.open(folder), None)


def test_where_the_configuration_may_be() -> None:
    method = {"quant_method": "fp8"}
    for config in (
        {"a": 1, "quantization_config": method}, {"a": 1, "compression_config": method},
        {"a": 1, "text_config": {"quantization_config": method}},
        {"a": 1, "quantization_config": method, "text_config": {"quantization_config": dict(method)}},
    ):  # fmt: skip
        rest, found = take(config)
        assert found == method
        assert rest == {"a": 1} | ({"text_config": {}} if "text_config" in config else {})
    assert take({"a": 1, "quantization_config": None}) == ({"a": 1}, None)
    with pytest.raises(ConfigError, match="is there twice"):
        take({"quantization_config": method, "compression_config": {"quant_method": "awq"}})
    with pytest.raises(ConfigError, match="expected an object, got fp8"):
        take({"quantization_config": "fp8"})
