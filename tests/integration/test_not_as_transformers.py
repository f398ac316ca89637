"""Where transformers 5.24 is not followed, or tensors are left out as it leaves them out (docs/models.md).

Each test shows the habit in transformers first: where a later version has another, it fails and the page is to change.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import published_checkpoint
import pytest
from families import load_model, make_checkpoint, make_model, write_tokenizer
from families.phimoe import longrope

from edge_runtime import Engine
from edge_runtime.base.errors import ConfigError
from hobbit_export.arch import read_model
from hobbit_export.cli import main
from hobbit_export.shards import read_json

LOGIT_TOLERANCE = 2e-3  # of the largest logit
IDS = np.random.default_rng(11).integers(1, 300, 48).tolist()
EXACT = ("--tiers", "8,bf16", "--trunk", "fp32")


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    """One pass of transformers."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def logits_by_token(model: Any, ids: list[int]) -> np.ndarray:
    """The same through its cache, a token a pass behind the first two."""
    import torch

    # the argument's name changed in 5.3x
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    past, rows = None, []
    with torch.no_grad():
        for part in (ids[:2], *([i] for i in ids[2:])):
            step = model(torch.tensor([part]), **{name: past}, use_cache=True)
            past = step.past_key_values
            rows.append(step.logits[0].numpy())
    return np.concatenate(rows)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def slow_steps(shared_folder: Path) -> Path:
    """nemotron_h whose time steps lie far below 0.001: the limit that transformers takes from `time_step_min`."""
    import torch

    folder = shared_folder / "checkpoint-nemotron_h-slow-steps"
    model = make_model("nemotron_h")
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("dt_bias"):
                tensor.normal_(-9.0, 0.5)
            if name.endswith("A_log"):
                tensor.normal_(4.0, 0.5)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.oracle
def test_time_steps_have_no_limits_in_prefill_nor_in_decoding(slow_steps: Path, exported) -> None:
    import torch

    model = load_model(slow_steps, dtype=torch.float32)
    in_one_pass, by_token = logits_of(model, IDS), logits_by_token(model, IDS)
    assert distance(by_token, in_one_pass) > 10 * LOGIT_TOLERANCE, "transformers limits in both, or in neither"
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            assert module.time_step_limit == (model.config.time_step_min, float("inf")) == (0.001, float("inf"))
            module.time_step_limit = tuple(model.config.time_step_limit)
    without = logits_of(model, IDS)
    assert distance(logits_by_token(model, IDS), without) < LOGIT_TOLERANCE
    with Engine.open(exported(slow_steps, *EXACT), tier="bf16", memory="2GiB", context=64, self_check=False) as engine:
        for chunk in (len(IDS), 7, 1):
            assert distance(engine.logits(IDS, chunk=chunk), without) <= LOGIT_TOLERANCE


@pytest.mark.oracle
def test_what_nemotron_h_ignores_in_transformers_is_refused() -> None:
    config = published_checkpoint.read("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "config.json")
    from transformers import NemotronHConfig, NemotronHForCausalLM

    small = NemotronHConfig(
        hidden_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=32, hybrid_override_pattern="*",
        vocab_size=32, attention_bias=True,
    )  # fmt: skip
    names = dict(NemotronHForCausalLM(small).named_parameters())
    assert not [name for name in names if "proj.bias" in name], "transformers has biases of attention now"
    for key, value in (("attention_bias", True), ("mamba_proj_bias", True), ("time_step_limit", [0.001, 0.1])):
        with pytest.raises(ConfigError, match=f"unsupported option '{key}'"):
            read_model(config | {key: value}, {})
    # a range for initialisation, whatever transformers takes it for
    assert read_model(config | {"time_step_min": 0.01}, {})[0] == read_model(config, {})[0]


@pytest.mark.parametrize("infinity", ['{"__float__": "Infinity"}', "Infinity"])
@pytest.mark.parametrize("model", ["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "granite-4.0-h-tiny"])
def test_infinity_has_two_spellings(model: str, infinity: str, tmp_path: Path) -> None:
    config = published_checkpoint.read(model, "config.json")
    config.pop("time_step_limit", None)
    text = json.dumps(config)[:-1] + f', "time_step_limit": [0.0, {infinity}]}}'
    (tmp_path / "config.json").write_text(text)
    assert read_model(read_json(tmp_path / "config.json"), {})[0] == read_model(config, {})[0]
    (tmp_path / "config.json").write_text(text.replace("[0.0, ", "[0.5, "))
    with pytest.raises(ConfigError, match="unsupported option 'time_step_limit'"):
        read_model(read_json(tmp_path / "config.json"), {})


@pytest.mark.oracle
def test_phimoe_in_transformers_knows_no_long_factors(shared_folder: Path) -> None:
    """They change nothing there, beyond the original context either; test_longrope.py has what is done here."""
    import torch

    checkpoint, original = shared_folder / "checkpoint-phimoe_longrope_biases", 256
    if not checkpoint.exists():
        make_checkpoint("phimoe_longrope_biases", checkpoint)
    model = load_model(checkpoint, dtype=torch.float32)
    ids = np.random.default_rng(4).integers(1, 320, original + 8).tolist()
    before, rope = logits_of(model, ids), model.config.rope_parameters
    assert rope["long_factor"] == longrope(32, original)["rope_parameters"]["long_factor"]
    rope["long_factor"] = [4 * factor for factor in rope["long_factor"]]
    assert np.array_equal(logits_of(model, ids), before)
    rope["long_mscale"] *= 2
    assert distance(logits_of(model, ids), before) > LOGIT_TOLERANCE


DRAFTING = {
    "Qwen3.5-35B-A3B": ["mtp.fc.weight", "mtp.layers.0.mlp.experts.gate_up_proj", "mtp.norm.weight"],
    "Qwen3-Next-80B-A3B-Instruct": ["mtp.fc.weight", "mtp.layers.0.mlp.experts.0.up_proj.weight"],
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ["mtp.layers.0.eh_proj.weight"],
    "ERNIE-4.5-21B-A3B-PT": ["model.mtp_block.0.mlp.up_proj.weight", "model.mtp_linear_proj.0.weight"],
    "GLM-4.5-Air": ["model.layers.46.eh_proj.weight", "model.layers.46.mlp.experts.0.up_proj.weight"],
    "GLM-4.7-Flash": ["model.layers.47.shared_head.head.weight", "model.layers.47.enorm.weight"],
    "DeepSeek-V3-bf16": ["model.layers.61.embed_tokens.weight", "model.layers.61.eh_proj.weight"],
}
"""Model -> tensors of layers that draft tokens, as its checkpoint names them."""


@pytest.mark.parametrize("model", DRAFTING)
def test_layers_that_draft_tokens_are_left_out_and_said_so(model: str, tmp_path: Path, capsys) -> None:
    published_checkpoint.write(model, tmp_path / model, more=dict.fromkeys(DRAFTING[model], ("BF16", (4, 8))))
    command = [str(tmp_path / model), "--out", str(tmp_path / "bundle"), "--dry-run"]
    assert main([*command, "--json"]) == 0
    (left_out,) = json.loads(capsys.readouterr().out)["left_out"]
    assert re.search("predict several tokens|draft further tokens", left_out["reason"])
    assert (left_out["tensors"], left_out["bytes"]) == (len(DRAFTING[model]), 64 * len(DRAFTING[model]))
    assert main(command) == 0
    assert f"left out: {min(DRAFTING[model])}" in capsys.readouterr().out


TOWERS = {
    "Qwen3.5-35B-A3B": "model.visual.patch_embed.proj.weight",
    "Qwen3-VL-30B-A3B-Instruct": "model.visual.blocks.0.norm1.weight",
    "gemma-4-26B-A4B-it": "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
}


@pytest.mark.parametrize("model", TOWERS)
def test_towers_of_other_senses_are_left_out_and_said_so(model: str, tmp_path: Path, capsys) -> None:
    published_checkpoint.write(model, tmp_path / model, more={TOWERS[model]: ("BF16", (4, 8))})
    assert main([str(tmp_path / model), "--out", str(tmp_path / "bundle"), "--dry-run"]) == 0
    assert f"left out: {TOWERS[model]}, 64 B: the vision tower: text alone is run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "model_type", ["glm4_moe_next", "glm5_moe", "olmo2_moe", "qwen4_moe", "mixtral2", "deepseek_v4"]
)
def test_a_family_is_never_taken_for_one_of_a_like_name(model_type: str) -> None:
    """`Did you mean 'olmoe'?` for another family would send people to a wrong model."""
    with pytest.raises(ConfigError, match=f"'{model_type}' is not supported yet. Supported families: ") as refused:
        read_model({"model_type": model_type, "num_experts": 8}, {})
    assert "mean" not in str(refused.value)
