"""GGUF files as the source: the same weights give the same bundle as their safetensors checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from families import make_checkpoint
from gguf_files import HALVES, as_blocks, as_f32, random_blocks, stored_as, write_gguf
from synthetic import qwen3_config, write_qwen3

from edge_runtime.base.errors import BundleError
from edge_runtime.bundle.bundle import Bundle
from hobbit_export.cli import main
from hobbit_export.exporter import export
from hobbit_export.gguf.files import open_files
from hobbit_export.gguf.weight import weight_of
from hobbit_export.options import ExportOptions

YARN = {
    "rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 16.0,
    "beta_slow": 2.0,
}  # fmt: skip
EMBEDDING = "trunk/embed.bin"


def exported(checkpoint: Path, out: Path, **given: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The model a bundle holds, and the digest of each of its parts."""
    export(ExportOptions(checkpoint, out, **{"tiers": (2, 4, 8, 16), "trunk": "fp32", **given}), quiet=True)
    parts = {part.name: part.sha256 for part in Bundle.open(out).manifest.parts if part.role != "tokenizer"}
    return json.loads((out / "manifest.json").read_text())["model"], parts


def with_config(checkpoint: Path, **changes: Any) -> Path:
    """Change what config.json says of a checkpoint."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return checkpoint


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mixtral", {}),
        ("mixtral_sliding_tied", {}),
        ("olmoe", {"clip_qkv": 0.75}),
        ("qwen2_moe", {}),
        ("qwen3_moe", {"rope_parameters": YARN, "rms_norm_eps": 1e-6}),
        ("qwen3_vl_moe", {}),
        ("gpt_oss", {}),
        ("gemma4_text", {}),
        ("gemma4_text_own_values_untied", {}),
        ("granitemoe_bias_tied", {}),
        ("granitemoeshared", {}),
        ("deepseek_v2", {}),
        ("deepseek_v2_groups", {"rope_parameters": YARN}),
        ("deepseek_v3_plain_queries", {}),
        ("deepseek_v3_tied_wide", {}),
        ("glm4_moe", {}),
        ("glm4_moe_whole_heads", {}),
        ("dots1", {}),
        ("ernie4_5_moe", {}),
        ("ernie4_5_moe_tied_no_shared", {}),
        ("hunyuan_v1_moe", {}),
        ("minimax_m2_rotary_dim", {}),
        ("lfm2_moe_tied_bias", {}),
        ("phimoe", {}),
    ],
)
def test_the_same_weights_give_the_same_bundle(case: str, changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    checkpoint = with_config(make_checkpoint(case, tmp_path / "ck"), **changes)
    bf16 = case in ("mixtral", "qwen2_moe")  # the checkpoint's own type; float32 is written by default
    store = stored_as("BF16") if bf16 else as_f32
    file = write_gguf(checkpoint, tmp_path / "model.gguf", store, splits=8 if case == "olmoe" else 0)
    assert ("-00001-of-" in file.name) == (case == "olmoe")
    expected, got = exported(checkpoint, tmp_path / "a"), exported(file, tmp_path / "b")
    assert got[0] == expected[0]
    if not bf16:
        narrow = np.fromfile(tmp_path / "a" / EMBEDDING, np.uint16).astype(np.uint32) << 16
        assert np.array_equal(narrow, np.fromfile(tmp_path / "b" / EMBEDDING, np.uint32))
        del got[1][EMBEDDING], expected[1][EMBEDDING]
    assert got[1] == expected[1]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("case", "changes", "given"),
    [
        ("deepseek_v2_groups", {"mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32.0, "beta_slow": 1.0}, {}),
        ("deepseek_v2", {}, {"joined": True}),
        ("glm4_moe_lite", {}, {"pre": "glm4"}),
        ("phimoe_longrope_biases", {"short_mscale": 1.25, "long_mscale": 1.25}, {}),
        ("phimoe_tied", {"short_mscale": 1.25, "long_mscale": 1.25}, {}),
    ],
)
def test_what_a_file_says_otherwise(
    case: str, changes: dict[str, Any], given: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both factors of YaRN are one, matrices that widen keys and values may be one tensor, a family is told by its
    tokenizer, and of longrope there is one multiplier.
    """
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint(case, tmp_path / "ck")
    rope = json.loads((checkpoint / "config.json").read_text())["rope_parameters"]
    with_config(checkpoint, rope_parameters=rope | changes)
    expected = exported(checkpoint, tmp_path / "a")
    got = exported(write_gguf(checkpoint, tmp_path / "model.gguf", **given), tmp_path / "b")
    del got[1][EMBEDDING], expected[1][EMBEDDING]
    assert got == expected
    assert ("rope.scaling.attn_factor 1.25" in caplog.text) == case.startswith("phimoe")


@pytest.mark.oracle
def test_a_stretched_base(tmp_path: Path) -> None:
    """A file has the base in float32; the configuration has what it was stretched by."""
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint("hunyuan_v1_moe_alpha_tied", tmp_path / "ck")
    expected = exported(checkpoint, tmp_path / "a")
    got = exported(write_gguf(checkpoint, tmp_path / "model.gguf"), tmp_path / "b")
    ropes = [layer["attention"].pop("rope") for model in (expected[0], got[0]) for layer in model["layers"]]
    assert got[0] == expected[0]
    thetas = {rope.pop("theta") for rope in ropes}
    assert len(thetas) == 2
    assert min(thetas) == pytest.approx(max(thetas), rel=2**-23)
    assert all(rope == ropes[0] for rope in ropes)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "case",
    ["qwen3_next", "qwen3_5_moe_text", "granitemoehybrid", "granitemoehybrid_rope_tied", "nemotron_h", "nemotron_h_dense",
     "kimi_linear_default_order", "kimi_linear_groups"],
)  # fmt: skip
def test_recurrent_layers(case: str, tmp_path: Path) -> None:
    """The file holds -exp(A_log), whose logarithm is not A_log to the last bit: one vector of each such layer."""
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint(case, tmp_path / "ck")
    file = write_gguf(checkpoint, tmp_path / "model.gguf", stored_as("BF16", lambda name: "ssm_" in name))
    expected, got = exported(checkpoint, tmp_path / "a"), exported(file, tmp_path / "b")
    assert got[0] == expected[0]
    other = {name for name, digest in expected[1].items() if got[1][name] != digest}
    linear = {i for i, layer in enumerate(got[0]["layers"]) if (layer["attention"] or {}).get("kind") == "linear"}
    assert 0 < len(linear) < len(got[0]["layers"])
    assert other <= {
        "calibration/reference.npz",
        *(f"trunk/layer_{i:03d}.{end}" for i in linear for end in ("onnx", "bin")),
    }
    logits = [np.load(tmp_path / each / "calibration/reference.npz")["logits"] for each in "ab"]
    assert np.abs(logits[0] - logits[1]).max() < 1e-5 * np.abs(logits[0]).max()


@pytest.mark.parametrize("kind", HALVES)
def test_every_type_is_decoded_as_its_package_does(kind: str, tmp_path: Path) -> None:
    """Any bits at all, read in pieces of rows that begin and end anywhere."""
    number, path = gguf.GGMLQuantizationType[kind], tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    stored = random_blocks(kind, 3, 37, 768)
    writer.add_tensor("a", stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(stored, number).reshape(111, 768)
    files, _, _ = open_files(path)
    with files:
        weight = weight_of(files, "a")
        assert (weight.dtype, weight.shape, weight.format) == ("F32", (3, 37, 768), f"GGUF {kind}")
        for start, stop in ((0, 111), (0, 1), (110, 111), (17, 90)):
            assert np.array_equal(weight.read(start, stop), expected[start:stop])


KINDS = sorted(HALVES)


def kind_of(name: str) -> str:
    """Every tensor another type, as files of llama-quantize mix them."""
    return KINDS[sum(name.encode()) % len(KINDS)]


def test_quantised_weights_give_the_bundle_of_their_numbers(tmp_path: Path) -> None:
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(256, 256, 4, 2, num_attention_heads=8))
    quantised = write_gguf(checkpoint, tmp_path / "q.gguf", as_blocks(kind_of))
    numbers = write_gguf(checkpoint, tmp_path / "f.gguf", as_blocks(kind_of, decoded=True))
    assert quantised.stat().st_size < numbers.stat().st_size / 4
    files, _, _ = open_files(quantised)
    with files:
        assert len({t.dtype for t in files.tensors.values()}) > 8
    tiers = {"tiers": (2, 4, 6, 8), "trunk": "int8"}
    assert exported(quantised, tmp_path / "a", **tiers) == exported(numbers, tmp_path / "b", **tiers)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(256, 256, 4, 1, num_attention_heads=8))

    def store(name: str, values: Any) -> Any:
        data, kind = as_blocks(lambda _: "Q8_0")(name, values)
        if name == "blk.0.ffn_up_exps.weight":
            data.reshape(-1)[34:36] = np.array([np.inf], np.float16).view(np.uint8)
        return data, kind

    file = write_gguf(checkpoint, tmp_path / "m.gguf", store)
    with pytest.raises(BundleError, match=r"tensor 'blk.0.ffn_up_exps.weight': .*(finite|infinity)"):
        exported(file, tmp_path / "b")


def test_a_type_that_is_not_read(tmp_path: Path) -> None:
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(256, 256, 4, 1, num_attention_heads=8))

    def store(name: str, values: Any) -> Any:
        if name != "blk.0.ffn_up_exps.weight":
            return values, None
        return np.zeros((*values.shape[:-1], 54), np.uint8), gguf.GGMLQuantizationType.TQ1_0

    file = write_gguf(checkpoint, tmp_path / "m.gguf", store)
    with pytest.raises(
        BundleError, match="tensor 'blk.0.ffn_up_exps.weight': type TQ1_0 is not read. Give the model in"
    ):
        exported(file, tmp_path / "b")


def test_what_the_command_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run, an export, a resumed one, a check, and another tokenizer, all by the command line."""
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(64, 32, 4, 1))
    file = write_gguf(checkpoint, tmp_path / "model.gguf", general__sampling__temp=0.6, general__sampling__top_k=20)
    command = [str(file), "--out", str(tmp_path / "b"), "--json"]
    assert main([*command, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)["bytes"]
    assert not (tmp_path / "b").exists()
    assert main(command) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["self_check"]["correlation"] > 0.99
    bundle = Bundle.open(tmp_path / "b")
    assert sum(part.bytes for part in bundle.manifest.parts if part.role == "tokenizer") == planned["tokenizer"]
    assert bundle.manifest.source.checkpoint == "model.gguf"
    assert (bundle.manifest.sampling.temperature, bundle.manifest.sampling.top_k) == (0.6, 20)
    assert main([*command, "--verify"]) == 0
    capsys.readouterr()

    unknown = write_gguf(checkpoint, tmp_path / "unknown.gguf", pre="of tomorrow")
    command = [str(unknown), "--out", str(tmp_path / "c"), "--json"]
    assert main(command) == 78
    assert "got 'of tomorrow'" in capsys.readouterr().err
    assert main([*command, "--tokenizer", str(checkpoint)]) == 0
    copied = (tmp_path / "c" / "tokenizer" / "tokenizer.json").read_bytes()
    assert copied == (checkpoint / "tokenizer.json").read_bytes()
    capsys.readouterr()
    assert main([*command, "--tokenizer", str(checkpoint), "--verify"]) == 0
    assert main([*command, "--tokenizer", str(tmp_path)]) == 78
    assert "tokenizer.json: expected a fast tokenizer, found none" in capsys.readouterr().err
