"""What the command line of hobbit-export promises: exit codes, messages, what it leaves alone, closed streams."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL
from patience import PATIENCE_S
from synthetic import hobbit_export, qwen3_config, run_export, write_qwen3

from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.verification import check_bundle
from hobbit_export.cli import main


@pytest.fixture(scope="module")
def source_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("ck") / "tiny", qwen3_config(64, 96, 4, 2))


def test_json_verify_and_second_run(source_model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    code, out, _ = run_export(source_model, "--out", bundle, "--json", "--verify")
    report = json.loads(out)
    assert code == 0
    assert report["verified"]["parts"] == report["num_parts"]
    assert report["verified"]["self_check"]["correlation"] > 0.98
    assert report["steps_resumed"] == 0
    assert 0 < report["peak_rss_bytes"] < 1 << 30
    before = (bundle / "manifest.json").read_bytes()

    code, out, err = run_export(source_model, "--out", bundle)
    assert (code, out) == (78, "")
    assert "already holds a complete bundle" in err
    code, out, _ = run_export(source_model, "--out", bundle, "--verify", "--json")
    assert json.loads(out)["verified"]["parts"] == report["num_parts"]
    code, _, err = run_export(source_model, "--out", bundle, "--verify", "--trunk", "int4")
    assert code == 78
    assert "--trunk: expected int4, the bundle there has int8" in err
    code, _, _ = run_export(source_model, "--out", bundle, "--no-resume", "--memory", "1GiB", "--jobs", "1")
    assert code == 0
    assert (bundle / "manifest.json").read_bytes() == before  # neither jobs nor memory change a byte
    assert sorted(p.name for p in bundle.iterdir()) == ["calibration", "experts", "manifest.json", "tokenizer", "trunk"]

    damaged = bundle / "experts/layer_001.hbx"
    raw = bytearray(damaged.read_bytes())
    raw[-5000] ^= 1
    damaged.write_bytes(raw)
    code, _, err = run_export(source_model, "--out", bundle, "--verify")
    assert code == 78
    assert "experts/layer_001.hbx" in err


def test_verify_refuses_another_checkpoint_of_the_same_size(source_model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert run_export(source_model, "--out", bundle, "--no-self-check")[0] == 0
    copy = tmp_path / "elsewhere"
    shutil.copytree(source_model, copy)
    assert run_export(copy, "--out", bundle, "--verify")[0] == 0
    other = write_qwen3(tmp_path / "other", qwen3_config(64, 96, 4, 2), seed=1)
    code, out, err = run_export(other, "--out", bundle, "--verify")
    assert (code, out) == (78, "")
    assert "weights (digest of samples): expected" in err


@pytest.mark.parametrize("flags", [["--dry-run"], ["--dry-run", "--json"], ["--help"], ["--tiers", "8"]])
def test_a_reader_that_went_away_is_no_traceback(source_model: Path, tmp_path: Path, flags: list[str]) -> None:
    for streams in (("stdout",), ("stderr",), ("stdout", "stderr")):
        process = hobbit_export(source_model, "--out", tmp_path / "-".join(streams), *flags)
        for name in streams:
            getattr(process, name).close()
        err = "" if "stderr" in streams else process.stderr.read()
        code = process.wait(PATIENCE_S)
        if process.stdout and not process.stdout.closed:
            process.stdout.close()
        if process.stderr and not process.stderr.closed:
            process.stderr.close()
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        assert code == (1 if "stdout" in streams or flags[0] == "--tiers" else 0)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_closed_and_full_output(source_model: Path, tmp_path: Path, closed: str) -> None:
    bundle = tmp_path / "bundle"
    command = f'exec "$0" -m hobbit_export "$@" {closed}'
    arguments = [str(source_model), "--out", str(bundle), "--tiers", "8"]
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == (1 if "full" in closed else 0)
    assert ("No space left" in done.stderr) == ("full" in closed)
    check_bundle(Bundle.open(bundle))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--tiers", "5"], 78, "--tiers: expected 8, 6, 4, 2, fp4 or bf16"),
        (["--trunk", "fp16"], 78, "fp16 is not written"),
        (["--trunk", "int2"], 78, "--trunk: expected one of auto, fp32, int8, int4"),
        (["--targets", "ort,tensorrt"], 78, "are built there from these graphs"),
        (["--targets", "cuda"], 78, "--targets: expected ort"),
        (["--memory", "lots"], 78, "--memory: expected a size"),
        (["--memory", "64MiB"], 78, "is below the floor of"),
        (["--calibrate", "/nonexistent.txt"], 78, "--calibrate /nonexistent.txt: cannot be read"),
        (["--jobs", "0"], 2, "--jobs: expected 1 to 256"),
        (["--frobnicate"], 2, "unrecognized arguments"),
    ],
)
def test_bad_flags(source_model: Path, tmp_path: Path, flags: list[str], code: int, message: str) -> None:
    got, out, err = run_export(source_model, "--out", tmp_path / "bundle", *flags)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("source", [str(MODEL), "org/name"])
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_without_onnx_it_says_what_to_install_or_where_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, flags: list[str]
) -> None:
    """As on a device, whose environment has no exporter's libraries: before a hub is asked for anything."""
    monkeypatch.setattr("hobbit_export.cli.find_spec", lambda _: None)
    monkeypatch.setattr("socket.socket.connect", None)
    assert main([source, "--out", str(tmp_path / "bundle"), *flags]) == 1
    said = capsys.readouterr().err
    assert "onnx is not installed. Install it: " in said
    assert "Without a network here: export on another machine" in said
    assert not (tmp_path / "bundle").exists()


def test_missing_checkpoint_and_tokenizer(source_model: Path, tmp_path: Path) -> None:
    code, _, err = run_export(tmp_path / "none", "--out", tmp_path / "bundle")
    assert (code, "found nothing" in err) == (78, True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(source_model / name)  # as in a download cache
    code, _, err = run_export(tmp_path, "--out", tmp_path / "bundle")
    assert code == 78
    assert "tokenizer.json: expected a fast tokenizer, found none" in err
    assert "save_pretrained" in err


def test_foreign_folders_are_left_alone(source_model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for flag in ("--resume", "--no-resume"):
        code, _, err = run_export(source_model, "--out", tmp_path, flag)
        assert (code, "found 'thesis.txt'" in err) == (78, True)
    (tmp_path / "thesis.txt").rename(tmp_path / "manifest.json")
    code, _, err = run_export(source_model, "--out", tmp_path, "--no-resume")
    assert code == 78
    assert (tmp_path / "manifest.json").read_text() == "years of work"


def test_help_is_light() -> None:
    code = (
        "import sys; from hobbit_export.cli import build_parser; build_parser().format_help();"
        "heavy = {'numpy', 'onnx', 'torch', 'rich', 'onnxruntime'} & set(sys.modules); sys.exit(str(heavy or '') or 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert process.returncode == 0
