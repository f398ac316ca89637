"""Keys of config.json that a family does not read: accepted while they change nothing, refused by name when they do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import published_checkpoint
import pytest

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import ADAPTERS, read_model
from hobbit_export.arch.config import ConfigReader, number
from hobbit_export.shards import read_json

FAMILIES = sorted(ADAPTERS)


# families whose configuration class describes no model that could be exported, and a published model of each
PUBLISHED = {
    "deepseek_v2": "DeepSeek-V2-Lite", "dots1": "dots.llm1.inst", "gemma4": "gemma-4-26B-A4B-it",
    "glm4_moe": "GLM-4.5-Air", "kimi_linear": "Kimi-Linear-48B-A3B-Instruct",
    "nemotron_h": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
}  # fmt: skip


def config_of(family: str) -> dict[str, Any]:
    """The least a configuration of a family says."""
    if family == "gemma4_text":
        return {**config_of("gemma4")["text_config"], "model_type": family}
    name = PUBLISHED.get(family)
    return published_checkpoint.read(name, "config.json") if name else {"model_type": family}


def spec_of(family: str, **config: Any) -> ModelSpec:
    return read_model(config_of(family) | config, {})[0]


QWEN3_CODER = published_checkpoint.read("Qwen3-Coder-30B-A3B-Instruct", "config.json")


def test_a_published_config_with_keys_that_change_nothing_is_read() -> None:
    plain = {
        k: v for k, v in QWEN3_CODER.items() if k not in ("qkv_bias", "shared_expert_intermediate_size", "use_qk_norm")
    }
    assert read_model(QWEN3_CODER, {})[0] == read_model(plain, {})[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("qkv_bias", True), ("shared_expert_intermediate_size", 768), ("use_qk_norm", False), ("unsloth", 1)],
)
def test_the_same_keys_with_a_value_that_would_change_something_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        read_model(QWEN3_CODER | {key: value}, {})


class Asked(dict[str, Any]):
    """A configuration that knows which of its keys were asked for."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def asked_by(family: str) -> set[str]:
    """The keys a family looks for."""
    if family == "kimi_linear":  # reads other names for these
        return {"scoring_func", "n_shared_experts", "n_group"}
    config = Asked(config_of(family))
    ADAPTERS[family].read_spec(ConfigReader(config), {})
    return config.asked


# what one family has and another does not: off changes nothing, on is refused by name
ELSEWHERE: list[tuple[str, Any, Any]] = [
    ("use_bias", False, True), ("mlp_bias", False, True), ("lm_head_bias", None, True), ("moe_layer_freq", 1, 2),
    ("n_shared_experts", 0, 1), ("first_k_dense_replace", 0, 1), ("n_group", 1, 4), ("kv_lora_rank", None, 512),
    ("routed_scaling_factor", 1.0, 2.5), ("scoring_func", "softmax", "sigmoid"), ("logit_scale", 1, 0.5),
    ("final_logit_softcapping", None, 30.0), ("attention_chunk_size", None, 8192), ("pretraining_tp", 1, True),
    ("residual_multiplier", 1.0, 0.22), ("tie_encoder_decoder", False, 0), ("is_encoder_decoder", None, True),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("key", "off", "on"), ELSEWHERE)
def test_an_option_of_another_family_is_read_while_it_is_off(family: str, key: str, off: Any, on: Any) -> None:
    if key in asked_by(family) | set(config_of(family)):
        pytest.skip("this family reads it")
    assert spec_of(family, **{key: off}) == spec_of(family)
    with pytest.raises(ConfigError, match=rf"unsupported option '{key}' = .*--ignore-key {key}$"):
        spec_of(family, **{key: on})


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_of_tools_and_of_training_change_nothing(family: str) -> None:
    marks = {
        "auto_map": {"AutoModel": "modeling_x.X"}, "num_nextn_predict_layers": 1, "unsloth_version": "2025.9.1",
        "torch_dtype": "bfloat16", "dtype": "bfloat16", "aux_loss_alpha": 0.001, "transformers_version": "5.0",
    }  # fmt: skip
    assert spec_of(family, **marks) == spec_of(family)


def test_what_a_family_does_anyway_may_be_said() -> None:
    for family, key, value in [
        ("mixtral", "norm_topk_prob", True), ("olmoe", "use_qk_norm", True), ("mixtral", "use_qk_norm", False),
        ("qwen3_moe", "layer_types", ["full_attention"] * 24), ("qwen2_moe", "use_qk_norm", False),
    ]:  # fmt: skip
        assert spec_of(family, **{key: value}) == spec_of(family)
    for family, key, value in [
        ("olmoe", "use_qk_norm", False), ("mixtral", "use_qk_norm", True), ("olmoe", "qkv_bias", True),
        ("qwen3_moe", "layer_types", ["sliding_attention"] * 24), ("mixtral", "qkv_bias", True),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=f"unsupported option '{key}'"):
            spec_of(family, **{key: value})


def test_a_key_can_be_ignored_by_name() -> None:
    odd = {"model_type": "mixtral", "never_heard_of": 3, "rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}}
    spec, _ = read_model(odd, {}, ["never_heard_of", "rope_scaling.odd"])
    assert spec == spec_of("mixtral", rope_scaling={"type": "linear", "factor": 2.0})
    assert odd["rope_scaling"]["odd"] == 1
    with pytest.raises(ConfigError, match="never_heard_of"):
        read_model(odd, {}, ["rope_scaling.odd"])


@pytest.mark.parametrize("key", ["never_herd_of", "rope_scaling.od", "never_heard_of.inner", ""])
def test_a_key_that_is_not_there_cannot_be_ignored(key: str) -> None:
    odd = {"model_type": "mixtral", "never_heard_of": 3, "rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}}
    with pytest.raises(ConfigError, match=f"--ignore-key {key}: config.json has no such key"):
        read_model(odd, {}, [key])


@pytest.mark.parametrize("text", ['{"__float__": "Infinity"}', "Infinity"])
def test_infinity_is_read_where_it_may_stand_and_refused_where_not(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "mixtral", "time_step_limit": [0.0, {text}]}}')
    config = read_json(tmp_path / "config.json")
    assert config["time_step_limit"] == [0.0, math.inf]
    assert number(config["time_step_limit"][1], "x", finite=False) == math.inf
    for wrong in (math.inf, -math.inf, math.nan):
        with pytest.raises(ConfigError, match="rms_norm_eps: expected a number"):
            spec_of("mixtral", rms_norm_eps=wrong)
    with pytest.raises(ConfigError, match="x: expected a number, got nan"):
        number(math.nan, "x", finite=False)
