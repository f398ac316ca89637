"""config.json to ModelSpec: defaults of transformers, every spelling, and refusal of everything unknown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from families import CONFIG_CLASSES, FAMILY_CASES, REQUIRED, family_of
from state_dict_weights import STATE_DICT_CASES

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import ADAPTERS, read_model
from hobbit_export.arch.config import ConfigReader
from hobbit_export.shards import read_json

FAMILIES = sorted(ADAPTERS)


def spec_of(family: str, generation: dict[str, Any] | None = None, **config: Any) -> ModelSpec:
    return read_model({"model_type": family, **REQUIRED[family], **config}, generation or {})[0]


def config_class(family: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, CONFIG_CLASSES[family])


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    config = config_class(family)().get_text_config()
    config.allow_global_per_layer_attribute_access = True  # layers of Gemma 4 have some values of their own
    for key, value in ADAPTERS[family].DEFAULTS.items():
        if key in ("rope_theta", "partial_rotary_factor"):
            assert value == config.rope_parameters[key]
        elif key == "rope_parameters":
            assert value == {k: v for k, v in config.rope_parameters.items() if k != "rope_theta"}
        elif key == "sliding_window" and family.startswith("qwen"):
            # the class shows the window only while it is in use
            assert value == config_class(family)(use_sliding_window=True).sliding_window
        elif key == "num_key_value_heads" and value is None:
            assert config.num_key_value_heads == config.num_attention_heads
        else:
            assert value == getattr(config, key), key


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_bare_config_equals_the_saved_default_config(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config_class(family)(**REQUIRED[family]).to_json_string(use_diff=False))
    configs = (read_json(tmp_path / "config.json"), {"model_type": family, **REQUIRED[family]})
    saved, bare = (ADAPTERS[family].read_spec(ConfigReader(config), {}) for config in configs)
    assert saved == bare


@pytest.mark.oracle
@pytest.mark.parametrize("case", sorted(FAMILY_CASES))
def test_saved_config_of_every_case(case: str, tmp_path: Path) -> None:
    spec, config = spec_and_config(case, tmp_path)
    text = config.get_text_config()
    sizes = (text.hidden_size, text.num_hidden_layers, text.vocab_size)
    assert (spec.hidden, spec.num_layers, spec.vocab_size) == sizes
    spellings = ("num_experts", "num_local_experts", "n_routed_experts")
    assert spec.num_experts == next(getattr(text, name) for name in spellings if hasattr(text, name))
    top_k = next(getattr(text, name) for name in ("num_experts_per_tok", "top_k_experts") if hasattr(text, name))
    assert spec.top_k == (top_k[0] if isinstance(top_k, list) else top_k)
    assert spec.tied_embeddings == config.tie_word_embeddings
    assert spec.eos_token_ids == [256]


@pytest.mark.oracle
@pytest.mark.parametrize(
    "case", [*STATE_DICT_CASES, *(case for case in FAMILY_CASES if family_of(case) in ("gpt_oss", "phimoe"))]
)
def test_attention_of_the_saved_config(case: str, tmp_path: Path) -> None:
    spec, config = spec_and_config(case, tmp_path)
    attention, rope = spec.attention, dict(config.rope_parameters)
    assert attention.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    assert (attention.num_heads, attention.num_kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    # a softmax over the chosen experts needs no second one
    assert spec.router.normalise == getattr(config, "norm_topk_prob", spec.router.softmax_over == "all")
    assert (attention.rope.kind, attention.rope.theta) == (rope.pop("rope_type"), rope.pop("rope_theta"))
    found = attention.rope.params | {
        name: factors for name in ("short_factor", "long_factor") if (factors := getattr(attention.rope, name))
    }
    assert {k: v for k, v in found.items() if k in rope} == rope


def spec_and_config(case: str, folder: Path) -> tuple[ModelSpec, Any]:
    """What we read of a case's saved configuration, and transformers' own object."""
    config = FAMILY_CASES[case]()
    config.save_pretrained(folder)
    return read_model(read_json(folder / "config.json"), {})[0], config


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options", [{}, {"max_window_layers": 3}, {"layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 3}]
)
def test_qwen2_windows_follow_transformers(options: dict[str, Any]) -> None:
    config = config_class("qwen2_moe")(num_hidden_layers=5, use_sliding_window=True, sliding_window=7, **options)
    spec = spec_of("qwen2_moe", num_hidden_layers=5, use_sliding_window=True, sliding_window=7, **options)
    assert [layer.window is not None for layer in spec.layers] == [t == "sliding_attention" for t in config.layer_types]


ROPES: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": None},
    {"rope_theta": 2e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": 2e4, "rope_scaling": {"rope_type": "dynamic", "factor": 2}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "truncate": False}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
     "original_max_position_embeddings": 256},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 3e4, "factor": 4.0, "beta_fast": 24, "beta_slow": 2}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 1.0}},
    {"rope_parameters": {"factor": 3.0, "rope_type": "linear"}, "rope_theta": 7e4},
]  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("rope", ROPES)
def test_rope_spellings_follow_transformers(family: str, rope: dict[str, Any]) -> None:
    given = json.loads(json.dumps(rope))
    config = config_class(family).from_dict({"max_position_embeddings": 2048, **given})
    config.standardize_rope_params()  # as its rotary embedding does before it computes anything
    wanted = config.rope_parameters
    spec = spec_of(family, max_position_embeddings=2048, **rope)
    got = spec.attention.rope
    assert (got.kind, got.theta) == (wanted["rope_type"], wanted["rope_theta"])
    rest = {k: v for k, v in wanted.items() if k not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")}
    if got.kind == "dynamic":
        rest["original_max_position_embeddings"] = 2048
    assert got.params == rest
    assert got.dim == spec.attention.head_dim


UNSUPPORTED: list[tuple[str, Any]] = [
    ("hidden_act", "gelu"),
    ("quantization_config", {"quant_method": "gptq"}),
    ("partial_rotary_factor", 0.5),
    ("rope_scaling", {"type": "longrope", "factor": 4.0, "short_factor": [1.0], "long_factor": [1.0]}),
    ("rope_scaling", {"type": "linear", "factor": 2.0, "surprise": 1}),
    ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25}),
    ("rope_parameters", {"rope_type": "proportional"}),
    ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
    ("is_encoder_decoder", True),
    ("per_layer_config", {"1": {"hidden_size": 8}}),
    ("never_heard_of", 3),
    ("logit_scale", 2.0),
    ("pretraining_tp", 2),
]


# what one family has and the others have not: a word of the option
OWN = {
    ("phimoe", "longrope"),
    ("nemotron_h", "rope_"),
    ("nemotron_h", "partial_rotary"),
    *((family, "partial_rotary") for family in ("glm4_moe", "minimax_m2", "qwen3_next", "qwen3_5_moe_text")),
}


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        (family, key, value)
        for family in FAMILIES
        for key, value in UNSUPPORTED
        if not any(family == owner and word in json.dumps([key, value]) for owner, word in OWN)
    ],
)
def test_unsupported_options_are_refused_by_name(family: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config.json: unsupported option '{key}"):
        spec_of(family, **{key: value})


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("mixtral", "attention_bias", True),
        ("mixtral", "norm_topk_prob", False),
        ("mixtral", "shared_expert_intermediate_size", 64),
        ("qwen2_moe", "attention_bias", True),
        ("qwen2_moe", "clip_qkv", 4.0),
        ("qwen2_moe", "layer_types", ["linear_attention"] * 24),
        ("qwen2_moe", "num_local_experts", 8),
        ("qwen3_moe", "qkv_bias", True),
        ("qwen3_moe", "shared_expert_intermediate_size", 64),
        ("ernie4_5_moe", "use_bias", True),
        ("granitemoe", "logits_scaling", 0),
        ("granitemoehybrid", "mamba_proj_bias", True),
        ("granitemoehybrid", "time_step_limit", [0.001, 0.1]),
        ("granitemoehybrid", "mamba_d_head", 32),
        ("granitemoehybrid", "layer_types", ["conv"] * 32),
        ("hunyuan_v1_moe", "moe_topk", [1, 2] * 16),
        ("hunyuan_v1_moe", "use_cla", True),
        ("lfm2_moe", "layer_types", ["linear_attention"] * 32),
        ("minimax_m2", "attn_type_list", [0] * 62),
        ("minimax_m2", "scoring_func", "softmax"),
        ("nemotron_h", "attention_bias", True),
        ("nemotron_h", "hybrid_override_pattern", "MEX"),
        ("nemotron_h", "moe_latent_size", 512),
        ("nemotron_h", "time_step_limit", [0.001, 0.1]),
        ("gpt_oss", "experts_per_token", 2),
        ("gpt_oss", "initial_context_length", 8192),
        ("gpt_oss", "layer_types", ["linear_attention"] * 36),
        ("gpt_oss", "norm_topk_prob", True),
        ("gpt_oss", "sliding_window", None),
        ("deepseek_v2", "norm_topk_prob", True),
        ("deepseek_v2", "scoring_func", "sigmoid"),
        ("deepseek_v2", "topk_method", "noaux_tc"),
        ("deepseek_v3", "num_key_value_heads", 8),
        ("deepseek_v3", "rope_interleave", False),
        ("deepseek_v3", "scoring_func", "softmax"),
        ("glm4_moe", "clip_qkv", 4.0),
        ("glm4_moe_lite", "first_k_dense_replace", 2),
        ("glm4_moe_lite", "partial_rotary_factor", 0.5),
        ("olmoe", "sliding_window", 128),
        ("phimoe", "num_experts_per_tok", 4),
        ("phimoe", "norm_topk_prob", True),
        ("olmoe", "decoder_sparse_step", 2),
    ],
)
def test_options_of_other_families_are_refused(family: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"unsupported option '{key}'"):
        spec_of(family, **{key: value})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "big"}, "hidden_size: expected a whole number"),
        ({"hidden_size": True}, "hidden_size: expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a whole number of at least 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number"),
        ({"moe_intermediate_size": 100}, "experts.intermediate: expected a multiple of 32"),
        ({"num_experts": 4, "num_experts_per_tok": 8}, "top_k: expected at most num_experts"),
        ({"num_experts": 4, "num_local_experts": 8}, "expected the same number"),
        ({"mlp_only_layers": list(range(24))}, "at least one sparse layer"),
        ({"mlp_only_layers": 3}, "mlp_only_layers: expected a list"),
        ({"norm_topk_prob": 1}, "norm_topk_prob: expected true or false"),
        ({"use_sliding_window": True, "sliding_window": 0}, "sliding_window: expected a whole number"),
        ({"rope_scaling": {"type": "yarn"}}, "factor: rope type 'yarn' needs it"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor: expected a number above 0"),
        ({"rope_scaling": 3}, "rope_scaling: expected an object"),
        ({"eos_token_id": "x"}, "eos_token_id: expected token numbers"),
    ],
)
def test_wrong_values_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec_of("qwen3_moe", **config)


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        (None, "is not supported yet"),
        ("qwen3moe", "is not supported yet"),
        (3, "is not supported yet"),
        ("llama", "is a dense model: it has no experts to stream"),
    ],
)
def test_unknown_family_lists_the_known_ones(model_type: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=f"{what}. Supported families: {', '.join(FAMILIES)}"):
        read_model({"model_type": model_type}, {})


def test_sparse_step_and_dense_layers() -> None:
    spec = spec_of("qwen3_moe", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3], intermediate_size=640)
    assert spec.sparse_layers == [1, 5]
    assert [layer.dense and layer.dense.intermediate for layer in spec.layers] == [640, None, 640, 640, 640, None]


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": [5, 6]}, [5, 6, 1]),
        ({"eos_token_id": [1, 5]}, {"eos_token_id": 5}, [5, 1]),
        ({"eos_token_id": 1}, {}, [1]),
        ({"eos_token_id": 1}, {"eos_token_id": None}, [1]),
        ({"eos_token_id": None}, {"eos_token_id": [5]}, [5]),
        ({"eos_token_id": None}, {"eos_token_id": None}, []),
        ({"eos_token_id": []}, {}, []),
    ],
)
def test_stop_tokens_are_those_of_both_files(config: Any, generation: Any, expected: list[int]) -> None:
    assert spec_of("qwen3_moe", generation, **config).eos_token_ids == expected


def test_a_familys_default_end_counts_only_where_no_file_names_one() -> None:
    assert spec_of("olmoe").eos_token_ids == [50279]
    assert spec_of("olmoe", {"eos_token_id": 7}).eos_token_ids == [7]
    assert spec_of("olmoe", eos_token_id=None).eos_token_ids == []


def test_the_first_token_of_generation_config_wins() -> None:
    assert spec_of("qwen3_moe", {"bos_token_id": 7}, bos_token_id=2).bos_token_id == 7
    assert spec_of("qwen3_moe", {"bos_token_id": None}, bos_token_id=2).bos_token_id == 2


@pytest.mark.parametrize("value", ["</s>", [1, "2"], True, 1.5, {"id": 2}])
def test_stop_tokens_that_are_none_are_named(value: Any) -> None:
    with pytest.raises(ConfigError, match="generation_config.json: eos_token_id: expected token numbers"):
        spec_of("qwen3_moe", {"eos_token_id": value})
    with pytest.raises(ConfigError, match="config.json: eos_token_id: expected token numbers"):
        spec_of("qwen3_moe", eos_token_id=value)


def test_stop_tokens_outside_the_vocabulary_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of("olmoe", vocab_size=100)
    assert spec.eos_token_ids == []
    assert "outside the vocabulary" in caplog.text


def test_biases() -> None:
    assert spec_of("qwen2_moe").attention.qkv_bias
    assert not spec_of("qwen2_moe", qkv_bias=False).attention.qkv_bias
    assert not spec_of("qwen2_moe").attention.o_bias
    assert spec_of("gpt_oss").attention.qkv_bias
    assert spec_of("gpt_oss").attention.o_bias
    for family in ("qwen3_moe", "olmoe"):
        assert spec_of(family, attention_bias=True).attention.o_bias
        assert not spec_of(family).attention.qkv_bias


def test_adapters_are_named_like_their_files() -> None:
    for family in FAMILIES:
        assert importlib.import_module(f"hobbit_export.arch.{family}") is ADAPTERS[family]
