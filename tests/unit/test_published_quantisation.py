"""`quantization_config` as published checkpoints carry it is accepted. Facts copied by hand, the model named.

Lists of thousands of names are cut to one of each kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised import write_stored

from edge_runtime.base.errors import ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import find_weights

LINEAR_INT4 = {
    "actorder": None, "block_structure": None, "dynamic": False, "group_size": 128, "num_bits": 4, "observer": "mse",
    "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int",
}  # fmt: skip
LINEAR_FP8 = LINEAR_INT4 | {"group_size": None, "num_bits": 8, "strategy": "channel", "type": "float"}
COMPRESSED = {
    "global_compression_ratio": None, "ignore": ["lm_head", "re:.*mlp.gate$", "model.layers.0.mlp.gate"],
    "kv_cache_scheme": None, "quant_method": "compressed-tensors", "quantization_status": "compressed",
    "sparsity_config": {}, "transform_config": {}, "version": "0.10.3",
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "deepseek-ai/DeepSeek-V3": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    },
    "Qwen/Qwen3-30B-A3B-FP8": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm", "model.layers.0.mlp.gate"],
    },
    "MiniMaxAI/MiniMax-M2": {
        "activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
    },
    "neuralmagic/Mixtral-8x7B-Instruct-v0.1-FP8": {
        "activation_scheme": "static", "ignored_layers": ["lm_head", "model.layers.0.block_sparse_moe.gate"],
        "quant_method": "fp8",
    },
    "openai/gpt-oss-20b": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
        ],
    },
    "Qwen/Qwen3-30B-A3B-GPTQ-Int4": {
        "bits": 4, "checkpoint_format": "gptq", "damp_percent": 0.01, "desc_act": False, "group_size": 128,
        "model_file_base_name": None, "model_name_or_path": None, "quant_method": "gptq", "static_groups": False,
        "sym": True, "true_sequential": True,
    },
    "GPTQModel, with options of modules": {
        "bits": 4, "checkpoint_format": "gptq", "desc_act": False, "group_size": 128, "lm_head": False,
        "meta": {"quantizer": ["gptqmodel:4.0.0"], "damp_percent": 0.05, "mse": 0.0, "static_groups": False},
        "pack_dtype": "int32", "quant_method": "gptq", "sym": True, "true_sequential": True,
        "dynamic": {"-:.*attn.*": {}, "-:.*mtp.*": {}, "-:.*shared_expert.*": {}, "-:.*visual.*": {}, "lm_head": {}},
    },
    "transformers, GPTQ": {
        "backend": "auto", "batch_size": 1, "bits": 4, "block_name_to_quantize": None, "cache_block_outputs": True,
        "checkpoint_format": "gptq", "damp_percent": 0.1, "dataset": None, "desc_act": False, "exllama_config": None,
        "group_size": 128, "max_input_length": None, "meta": None, "model_seqlen": None, "pad_token_id": None,
        "module_name_preceding_first_block": None, "modules_in_block_to_quantize": None, "quant_method": "gptq",
        "sym": True, "tokenizer": None, "true_sequential": True, "use_cuda_fp16": False, "use_exllama": True,
    },
    "AutoAWQ": {
        "backend": "autoawq", "bits": 4, "do_fuse": False, "exllama_config": None, "fuse_max_seq_len": None,
        "group_size": 128, "modules_to_fuse": None, "modules_to_not_convert": ["mlp.gate"], "quant_method": "awq",
        "version": "gemm", "zero_point": True,
    },
    "RedHatAI, w4a16": {
        **COMPRESSED, "format": "pack-quantized",
        "config_groups": {"group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"],
                                      "weights": LINEAR_INT4}},
    },
    "RedHatAI, FP8-dynamic": {
        **COMPRESSED, "format": "float-quantized",
        "config_groups": {"group_0": {
            "format": "float-quantized", "output_activations": None, "targets": ["Linear"], "weights": LINEAR_FP8,
            "input_activations": {"dynamic": True, "num_bits": 8, "strategy": "token", "type": "float"},
        }},
    },
    "NVIDIA ModelOpt, NVFP4": {
        "config_groups": {"group_0": {
            "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
            "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"],
        }},
        "ignore": ["lm_head", "model.layers.0.mlp.gate", "model.layers.0.self_attn*"], "quant_algo": "NVFP4",
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}, "quant_method": "modelopt",
        "producer": {"name": "modelopt", "version": "0.33.0"},
    },
}  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_configurations_are_read(tmp_path: Path, model: str) -> None:
    """Nothing is quantised here, so that only the configuration is judged; a key more is refused."""
    write_stored(tmp_path / "model.safetensors", {"model.norm.weight": ("F32", np.ones(4, np.float32))})
    with Checkpoint.open(tmp_path) as checkpoint:
        weights, _ = find_weights(checkpoint, PUBLISHED[model])
        assert list(weights) == ["model.norm.weight"]
        with pytest.raises(ConfigError, match="unsupported option 'surprise' = True"):
            find_weights(checkpoint, {**PUBLISHED[model], "surprise": True})
