"""A quantised checkpoint and the same values unquantised give the same bundle, byte for byte; memory stays in bounds."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make_checkpoint
from outside import run_measured
from quantised import FORMATS, Stored, mxfp4_experts, write_stored
from safetensors.numpy import load_file
from synthetic import bfloat16, qwen3_config, qwen3_shapes, run_export, write_tokenizer

from edge_runtime import Engine
from edge_runtime.backends.cpu.kernels.reference import decode_expert
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from hobbit_export.cli import main
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions
from hobbit_export.source import SourceModel

MIB = 1 << 20
QUANTISED = re.compile(r".*(self_attn\.[qkvo]_proj|experts\.\d+\.(gate|up|down)_proj)\.weight")


def write_both(out: Path, name: str, config: dict[str, Any], seed: int = 0) -> tuple[Path, Path]:
    """Write a qwen3_moe checkpoint in a format, and one with the same values in float32."""
    rng, form = np.random.default_rng(seed), FORMATS[name]
    stored: Stored = {}
    plain: Stored = {}
    for tensor, shape in qwen3_shapes(config).items():
        if QUANTISED.fullmatch(tensor):
            parts, values = form.make(rng, tensor, (shape[0], shape[1]))
            plain[tensor] = ("F32", values)
        else:
            parts = {tensor: ("BF16", bfloat16(rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)))}
            plain |= parts
        stored |= parts
    folders = out / "quantised", out / "plain"
    for folder, tensors, extra in zip(
        folders, (stored, plain), ({"quantization_config": form.config}, {}), strict=True
    ):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({**config, **extra}))
        write_tokenizer(folder)
        write_stored(folder / "model.safetensors", tensors)
    return folders


def digests(checkpoint: Path, out: Path) -> dict[str, str]:
    """Export, and return the hash of every part."""
    export(ExportOptions(checkpoint, out, tiers=(2, 4, 6, 8, 16)), quiet=True)
    return {part.name: part.sha256 for part in manifest_file.read(out).parts}


@pytest.mark.parametrize(
    "name", ["fp8_block", "gptq4_ordered", "awq", "packed4_asymmetric", "nvfp4", "modelopt_nvfp4", "fp8_tensor"]
)
def test_the_same_bundle_as_unquantised(tmp_path: Path, name: str) -> None:
    quantised, plain = write_both(tmp_path, name, qwen3_config(192, 64, 3, 1))
    found, wanted = digests(quantised, tmp_path / "a"), digests(plain, tmp_path / "b")
    assert len(found) > 8
    assert found == wanted


def write_gpt_oss(tmp_path: Path) -> tuple[Path, Path]:
    """Write gpt-oss with experts in MXFP4, and with the same values in bfloat16."""
    pytest.importorskip("torch")
    plain = make_checkpoint("gpt_oss", tmp_path / "plain", "float32")
    tensors = load_file(plain / "model.safetensors")
    rng, values, stored = np.random.default_rng(0), {}, {}
    for name, array in tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = array.shape
            parts, known = mxfp4_experts(rng, name, experts, outputs, inputs)
            stored |= parts
            values[name] = ("BF16", bfloat16(np.ascontiguousarray(known.transpose(0, 2, 1))))
        else:
            values[name] = stored[name] = ("F32", array)
    quantised = tmp_path / "quantised"
    shutil.copytree(plain, quantised)
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"],
    }
    (quantised / "config.json").write_text(json.dumps(config))
    write_stored(quantised / "model.safetensors", stored)
    write_stored(plain / "model.safetensors", values)
    return quantised, plain


def test_gpt_oss_in_mxfp4_is_gpt_oss_in_bfloat16(tmp_path: Path) -> None:
    """Every MXFP4 value is a bfloat16 number, so both checkpoints say the same; one has inputs first."""
    quantised, plain = write_gpt_oss(tmp_path)
    assert digests(quantised, tmp_path / "a") == digests(plain, tmp_path / "b")


def test_mxfp4_is_kept_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records of 4-bit floats hold the source's values, the runtime computes with them, and nothing else fits."""
    quantised, plain = write_gpt_oss(tmp_path)
    out = tmp_path / "bundle"
    assert (
        main([str(quantised), "--out", str(out), "--tiers", "fp4,bf16", "--trunk", "fp32", "--calibrate", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["self_check"]["correlation"] > 0.999
    bundle = Bundle.open(out)
    assert (bundle.manifest.experts.tiers, bundle.manifest.model.experts.codes) == ([2, 4, 16], "fp4")
    assert bundle.manifest.version == 3
    measured = json.loads((out / "calibration" / "experts.json").read_text())
    assert {error for layer in measured["layers"] for error in layer["errors"]["4"]} == {0.0}
    spec = bundle.manifest.model
    with SourceModel.open(plain).checkpoint as source:
        values = source.tensor_f32("model.layers.1.mlp.experts.down_proj")
    header = bundle.expert_header(1, 4)
    with open(out / "experts" / "layer_001.hbx", "rb") as file:
        for expert in range(spec.num_experts):
            file.seek(header.record_offset(expert))
            segments = [file.read(size) for size in header.segment_bytes]
            decoded = decode_expert(segments, spec.hidden, spec.experts.intermediate, 4, codes="fp4")
            assert np.array_equal(decoded[2], values[expert].T)
    prompt = np.arange(1, 40, dtype=np.int32)
    logits = []
    for tier in (4, 16):
        with Engine.open(out, memory="1GiB", context=64, tier=tier, self_check=False) as engine:
            logits.append(np.concatenate([rows for _, rows in engine.logit_chunks(prompt)]))
    # what is left is the rounding of activations to 8 bits
    assert np.abs(logits[0] - logits[1]).max() < 0.03 * np.abs(logits[1]).max()
    assert main([str(quantised), "--out", str(out), "--tiers", "4", "--verify"]) == 78
    capsys.readouterr()
    other, _ = write_both(tmp_path / "other", "gptq4", qwen3_config(192, 64, 3, 1))
    assert main([str(other), "--out", str(tmp_path / "c"), "--tiers", "fp4"]) == 78
    assert "holds weights that are no 4-bit floats times a power of two" in capsys.readouterr().err
    assert main([str(other), "--out", str(tmp_path / "c"), "--tiers", "fp4,8"]) == 78
    assert "fp4 goes with bf16 alone" in capsys.readouterr().err


def test_the_report_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantised, _ = write_both(tmp_path, "gptq4", qwen3_config(192, 64, 3, 1))
    flags = [str(quantised), "--out", str(tmp_path / "bundle"), "--tiers", "4"]
    line = "source: 13 weights in gptq with 4 bits in groups of 32, decoded exactly to float32"
    assert main([*flags, "--dry-run"]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert main([*flags, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["formats"] == {"gptq with 4 bits in groups of 32": 13}
    assert main(flags) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_what_an_interrupted_export_left_is_not_taken_for_another_source(tmp_path: Path) -> None:
    """The way weights are stored is part of config.json, and so of what a resumed export must have in common."""
    quantised, plain = write_both(tmp_path, "gptq4", qwen3_config(192, 64, 3, 1))
    opened = [SourceModel.open(folder) for folder in (quantised, plain)]
    for source in opened:
        source.checkpoint.close()
    assert opened[0].config_sha256 != opened[1].config_sha256
    assert opened[0].spec == opened[1].spec
    assert opened[0].expert_source_bytes < opened[1].expert_source_bytes / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gptq4_ordered", "fp8_block"])
def test_peak_memory_stays_under_the_ceiling(tmp_path: Path, name: str) -> None:
    """The smallest ceiling that is accepted is kept, on a checkpoint whose values take more."""
    config = qwen3_config(1536, 1024, 8, 1, vocab_size=2048, num_attention_heads=16)
    checkpoint, plain = write_both(tmp_path, name, config)
    values = (plain / "model.safetensors").stat().st_size
    shutil.rmtree(plain)
    flags = (str(checkpoint), "--out", str(tmp_path / "bundle"), "--tiers", "4", "--no-self-check")
    code, _, problems = run_export(*flags, "--memory", "64MiB")
    floor = re.search(r"Raise --memory to at least (\d+)MiB", problems)
    assert code == 78
    assert floor
    assert values > int(floor[1]) * MIB
    command = [sys.executable, "-m", "hobbit_export", *flags, "--memory", f"{floor[1]}MiB"]
    done, peak = run_measured(command)
    assert done.returncode == 0, done.stderr
    assert peak < int(floor[1]) * MIB
