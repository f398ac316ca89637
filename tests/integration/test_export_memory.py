"""--memory is a ceiling: peak resident memory, measured from outside, on a checkpoint several times larger."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from gguf_files import as_blocks, write_gguf
from outside import run_measured
from synthetic import qwen3_config, write_qwen3

MIB = 1 << 20
CEILING = 200 * MIB


def run_export_measured(*arguments: object) -> tuple[int, str, str, int]:
    """Exit code, stdout, stderr and peak resident bytes of an export."""
    command = [sys.executable, "-m", "hobbit_export", *map(str, arguments), "--no-self-check"]
    done, peak = run_measured(command)
    return done.returncode, done.stdout, done.stderr, peak


@pytest.mark.slow
@pytest.mark.parametrize(("tiers", "layers"), [("8", 6), ("8,bf16", 3)])
def test_peak_memory_stays_under_the_ceiling(tmp_path: Path, tiers: str, layers: int) -> None:
    checkpoint = write_qwen3(tmp_path / "big", qwen3_config(1024, 2048, 16, layers, vocab_size=8192))
    assert (checkpoint / "model.safetensors").stat().st_size > 3 * CEILING
    flags = ("--out", tmp_path / "bundle", "--memory", f"{CEILING}B", "--tiers", tiers, "--json")
    code, text, problems, peak = run_export_measured(checkpoint, *flags)
    assert (code, problems) == (0, "")
    assert peak < CEILING
    report = json.loads(text)
    assert abs(report["peak_rss_bytes"] - peak) < 8 * MIB
    assert report["bytes_read"] == 2 * 3 * 1024 * 2048 * 16 * layers


def test_the_peak_it_says_is_that_of_the_whole_process(tmp_path: Path) -> None:
    """The check at its end runs the bundle within half of the ceiling, and counts."""
    checkpoint = write_qwen3(tmp_path / "ck", qwen3_config(512, 512, 8, 2))
    command = [sys.executable, "-m", "hobbit_export", str(checkpoint), "--out", str(tmp_path / "bundle"), "--json"]
    done, peak = run_measured([*command, "--memory", "800MiB"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["self_check"]["correlation"] > 0.99
    assert abs(report["peak_rss_bytes"] - peak) < 8 * MIB
    assert report["export_peak_rss_bytes"] < report["peak_rss_bytes"] <= 400 * MIB


@pytest.mark.parametrize("trunk", ["fp32", "int8", "int4"])
def test_the_floor_it_names_is_enough(tmp_path: Path, trunk: str) -> None:
    """A wide trunk with a large vocabulary: the smallest ceiling that is accepted is kept."""
    config = qwen3_config(1024, 256, 4, 1, vocab_size=24576, num_attention_heads=32)
    checkpoint = write_qwen3(tmp_path / "wide", config)
    flags = ("--out", tmp_path / "bundle", "--trunk", trunk)
    code, _, problems, _ = run_export_measured(checkpoint, *flags, "--memory", "64MiB")
    floor = re.search(r"Raise --memory to at least (\d+)MiB", problems)
    assert code == 78
    assert floor
    code, _, problems, peak = run_export_measured(checkpoint, *flags, "--memory", f"{floor[1]}MiB")
    assert code == 0, problems
    assert peak < int(floor[1]) * MIB


VOCABULARIES = {
    "256k, tied": {"tie_word_embeddings": True},
    "256k": {"tie_word_embeddings": False},
    "256k, no power of two": {"hidden_size": 288},  # the head's scales stand for 32 weights each
}


@pytest.mark.parametrize("trunk", ["int8", "fp32"])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_large_vocabulary_keeps_the_floor_it_names(tmp_path: Path, name: str, trunk: str) -> None:
    """Logits, an embedding and a head of a quarter of a million tokens, in a model that has little else."""
    sizes = {"vocab_size": 262_144, **VOCABULARIES[name]}
    checkpoint = write_qwen3(tmp_path / "wide", qwen3_config(256, 64, 4, 1) | sizes)
    flags = (checkpoint, "--out", tmp_path / "bundle", "--trunk", trunk)
    _, _, problems, _ = run_export_measured(*flags, "--memory", "64MiB")
    floor = re.search(r"Raise --memory to at least (\d+)MiB", problems)
    assert floor, problems
    code, _, problems, peak = run_export_measured(*flags, "--memory", f"{floor[1]}MiB")
    assert code == 0, problems
    assert peak < int(floor[1]) * MIB, f"{peak / MIB:.0f} of {floor[1]} MiB"


def test_a_large_vocabulary_is_measured_within_the_ceiling(tmp_path: Path) -> None:
    """What a text costs is measured on all logits: a few rows of them at a time."""
    checkpoint = write_qwen3(tmp_path / "wide", qwen3_config(64, 64, 4, 1, vocab_size=262_144))
    text = tmp_path / "text.txt"
    text.write_text("One two three four five six seven eight. " * 3)
    flags = (checkpoint, "--out", tmp_path / "bundle", "--calibrate", text, "--memory", "480MiB")
    code, _, problems, peak = run_export_measured(*flags)
    assert code == 0, problems
    assert peak < 480 * MIB, f"{peak / MIB:.0f} MiB"


def test_a_quantised_gguf_file_keeps_the_floor_it_names(tmp_path: Path) -> None:
    """Blocks are decoded piece by piece, and a large vocabulary is read once."""
    config = qwen3_config(1024, 1024, 8, 1, vocab_size=24576, num_attention_heads=32)
    checkpoint = write_qwen3(tmp_path / "wide", config)
    file = write_gguf(checkpoint, tmp_path / "wide.gguf", as_blocks(lambda name: "Q4_K"))
    flags = ("--out", tmp_path / "bundle", "--trunk", "int8")
    code, _, problems, _ = run_export_measured(file, *flags, "--memory", "128MiB")
    floor = re.search(r"Raise --memory to at least (\d+)MiB", problems)
    assert code == 78
    assert floor
    code, _, problems, peak = run_export_measured(file, *flags, "--memory", f"{floor[1]}MiB")
    assert code == 0, problems
    assert peak < int(floor[1]) * MIB
