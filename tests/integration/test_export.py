"""hobbit-export from checkpoint to bundle: every family, both expert layouts, number types, tiers, plans."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILY_CASES, load_model, make_checkpoint
from synthetic import qwen3_config, run_export, write_qwen3, write_safetensors

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.record import BF16
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.expected_parts import expected_parts
from hobbit_export.experts import LayerJob, write_layer
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions, parse_tiers
from hobbit_export.source import SourceModel, sample_sha256


def options(checkpoint: Path, out: Path, **given: Any) -> ExportOptions:
    return ExportOptions(checkpoint, out, **{"tiers": (2, 4, 6, 8, BF16), **given})


def bf16_expert(bundle: Bundle, layer_idx: int, expert_idx: int) -> list[F32]:
    """Gate (where there is one), up and down of an expert, from the bfloat16 record as docs/format.md describes it."""
    header = bundle.expert_header(layer_idx, BF16)
    d, i, inner = header.hidden, header.intermediate, 2 if header.gated else 1
    path = bundle.path / f"experts/layer_{layer_idx:03d}.bf16.hbx"
    raw = np.fromfile(path, "<u2", (inner + 1) * d * i, offset=header.record_offset(expert_idx))
    values = (raw.astype(np.uint32) << 16).view(np.float32)
    panels = values[: inner * d * i].reshape(i // 16, inner, d, 16)
    outer = values[inner * d * i :].reshape(d // 16, i, 16).transpose(0, 2, 1).reshape(d, i)
    return [*(panels[:, m].transpose(0, 2, 1).reshape(i, d) for m in range(inner)), outer]


@pytest.fixture(scope="module")
def source_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "tiny", qwen3_config(64, 96, 4, 2))


@pytest.mark.oracle
@pytest.mark.parametrize("case", sorted(FAMILY_CASES))
def test_every_family(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = make_checkpoint(case, tmp_path / "ck", sharded=len(case) % 2 == 0)
    report = export(options(checkpoint, tmp_path / "bundle", trunk="fp32"), quiet=True)
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.bundle_id == report.bundle_id
    assert bundle.manifest.experts.tiers == [2, 4, 6, 8, 16]

    model = load_model(checkpoint, dtype=torch.float32, attn_implementation="eager")
    state = model.state_dict()
    spec = bundle.manifest.model
    for layer_idx in spec.sparse_layers:
        bundle.expert_header(layer_idx, 8)
        of_layer = re.compile(rf".*layers\.{layer_idx}\..*(?<!shared_)experts\.(gate_up|up|down)_proj")
        named = sorted(name for name in state if of_layer.fullmatch(name))
        down, fused = (state[name].numpy() for name in named)
        if spec.family == "gpt_oss":  # inputs before outputs, and rows of gate and up in turn
            down, fused = down.transpose(0, 2, 1), fused.transpose(0, 2, 1)
            fused = np.concatenate([fused[:, 0::2], fused[:, 1::2]], axis=1)
        for expert_idx in range(spec.num_experts):
            *inner, outer = bf16_expert(bundle, layer_idx, expert_idx)
            assert np.array_equal(np.concatenate(inner), fused[expert_idx])
            assert np.array_equal(outer, down[expert_idx])

    with np.load(tmp_path / "bundle/calibration/reference.npz") as reference:
        ids, logits = reference["token_ids"], reference["logits"]
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    assert logits.shape == (16, spec.vocab_size)
    assert np.abs(logits - wanted).max() < 2e-4 * np.abs(wanted).max()


@pytest.mark.oracle
@pytest.mark.parametrize("case", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_fused_layout_gives_the_same_experts(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    plain = make_checkpoint(case, tmp_path / "plain")
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16)
    fused = tmp_path / "fused"
    fused.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (fused / name).write_bytes((plain / name).read_bytes())
    tensors = {n: t.contiguous().view(torch.uint16).numpy() for n, t in model.state_dict().items()}
    assert any(n.endswith("experts.gate_up_proj") for n in tensors)
    write_safetensors(fused / "model.safetensors", tensors)
    parts = []
    for checkpoint in (plain, fused):
        export(options(checkpoint, tmp_path / f"{checkpoint.name}-bundle"), quiet=True)
        manifest = Bundle.open(tmp_path / f"{checkpoint.name}-bundle").manifest
        parts.append({p.name: p.sha256 for p in manifest.parts if p.role in ("experts", "experts_bf16", "trunk")})
    assert parts[0] == parts[1]


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_source_types(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint("qwen3_moe", tmp_path / "ck", dtype=dtype)
    export(options(checkpoint, tmp_path / "bundle"), quiet=True)
    with SourceModel.open(checkpoint).checkpoint as opened:
        exact = opened.tensor_f32("model.layers.1.mlp.experts.3.up_proj.weight")
    found = bf16_expert(Bundle.open(tmp_path / "bundle"), 1, 3)[1]
    assert np.abs(found - exact).max() <= np.abs(exact).max() / 256


def test_errors_fall_with_the_tier(source_model: Path, tmp_path: Path) -> None:
    export(options(source_model, tmp_path / "bundle"), quiet=True)
    data = json.loads((tmp_path / "bundle/calibration/experts.json").read_text())
    assert "tokens" not in data
    assert [layer["layer"] for layer in data["layers"]] == [0, 1]
    for layer in data["layers"]:
        rows = [layer["errors"][tier] for tier in ("2", "4", "6", "8", "16")]
        assert all(len(row) == 4 for row in rows)
        for deeper, row in zip(rows[1:], rows, strict=False):
            assert all(a < b for a, b in zip(deeper, row, strict=True))
        assert max(layer["errors"]["8"]) < 0.02
        assert layer["errors"]["16"] == [0.0] * 4  # the source is bfloat16


def test_tiers_limit_what_is_stored(source_model: Path, tmp_path: Path) -> None:
    sizes = {}
    for text in ("2", "4", "8", "8,4,2"):
        export(options(source_model, tmp_path / text, tiers=parse_tiers(text)), quiet=True)
        manifest = Bundle.open(tmp_path / text).manifest
        sizes[text] = sum(p.bytes for p in manifest.of_role("experts"))
        assert not manifest.of_role("experts_bf16")
    assert sizes["2"] < sizes["4"] < sizes["8"] == sizes["8,4,2"]
    assert Bundle.open(tmp_path / "8,4,2").manifest.experts.tiers == [2, 4, 8]
    assert Bundle.open(tmp_path / "4").manifest.experts.tiers == [2, 4]


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("8", (2, 4, 6, 8)),
        ("4", (2, 4)),
        ("2", (2,)),
        ("8,bf16", (2, 4, 6, 8, 16)),
        ("bf16, 8,2", (2, 8, 16)),
        ("6,4", (4, 6)),
    ],
)
def test_parse_tiers(text: str, tiers: tuple[int, ...]) -> None:
    assert parse_tiers(text) == tiers


@pytest.mark.parametrize("text", ["bf16", "", "5", "8;4", "16", "8,,4"])
def test_parse_tiers_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="--tiers"):
        parse_tiers(text)


@pytest.mark.parametrize("trunk", ["fp32", "int8", "int4"])
def test_plan_agrees_with_the_bundle(source_model: Path, tmp_path: Path, trunk: str) -> None:
    chosen = options(source_model, tmp_path / "bundle", trunk=trunk)
    export(chosen, quiet=True)
    written = {p.name: p.bytes for p in Bundle.open(tmp_path / "bundle").manifest.parts}
    with SourceModel.open(source_model).checkpoint:
        planned = expected_parts(SourceModel.open(source_model), chosen)
    for part in planned:
        actual = written[part.name]
        if part.kind == "trunk":
            actual += written.get(part.name.replace(".onnx", ".data"), 0)  # the graph that applies routers has none
            assert abs(part.bytes - actual) < 0.02 * actual + (16 << 10), part
        elif part.kind == "calibration":
            assert actual <= part.bytes
        else:
            assert actual == part.bytes, part


def test_dry_run_writes_nothing(source_model: Path, tmp_path: Path) -> None:
    code, out, err = run_export(source_model, "--out", tmp_path / "bundle", "--dry-run", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["dry_run"]
    assert plan["bytes"]["total"] == sum(p["bytes"] for p in plan["parts"])
    assert {"generic", "orin-nano-8gb"} <= set(plan["profiles"])
    assert all(fit["floor_bytes"] > 0 for fit in plan["profiles"].values())
    assert not any(tmp_path.iterdir())


def test_a_digest_of_samples_sees_every_tensor(source_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source_model, tmp_path / "copy"))
    with Checkpoint.open(copy) as checkpoint:
        seen = {sample_sha256(checkpoint)}
        for info in checkpoint.tensors.values():
            with open(info.file, "r+b") as file:
                file.seek(info.offset)
                byte = file.read(1)[0]
                file.seek(info.offset)
                file.write(bytes([byte ^ 1]))
            seen.add(sample_sha256(checkpoint))
        assert len(seen) == 1 + len(checkpoint.tensors)


def test_weights_that_are_not_finite(source_model: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("layers.1.mlp.experts.2.down_proj", "layers.0.input_layernorm")):
        broken = tmp_path / str(number)
        broken.mkdir()
        for path in source_model.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        source = SourceModel.open(broken)
        with open(broken / "model.safetensors", "r+b") as file:
            file.seek(source.checkpoint.tensors[f"model.{name}.weight"].offset + 10)
            file.write(b"\xff\x7f")
        with pytest.raises(BundleError, match=f"tensor 'model.{name}.weight'.*finite"):
            export(options(broken, tmp_path / f"{number}-bundle"), quiet=True)
        assert not (tmp_path / f"{number}-bundle/manifest.json").exists()
        if "experts" in name:
            with (
                source.checkpoint,
                pytest.raises(BundleError, match=f"tensor 'model.{name}.weight': expert 2: .*row 0 holds"),
            ):
                write_layer(source, 1, tmp_path, LayerJob(4, False, 1, 1 << 16))
