"""No file of a checkpoint makes the exporter exceed --memory: files that become far larger when they are read."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import write_gguf
from outside import run_measured
from synthetic import qwen3_config, write_qwen3

from hobbit_export.ceiling import json_bytes, resident_bytes

MIB = 1 << 20
CEILING = 144 * MIB
CONFIG = qwen3_config(64, 32, 4, 1)


def nested(size: int) -> str:
    """A JSON object of so many bytes whose lists take twenty times as many."""
    return '{"a":[' + ",".join(["[]"] * (size // 3)) + "]}"


def pairs(size: int) -> str:
    """The same of objects, which take thirty times as many."""
    return '{"a":[' + ",".join(['{"":0}'] * (size // 7)) + "]}"


def keys(size: int) -> str:
    return "{" + ",".join(f'"{i:x}":0' for i in range(size // 10)) + "}"


def _json(name: str, make: Callable[[int], str], size: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(make(size))
        return folder

    return write


def _header(folder: Path) -> Path:
    """A header of the most bytes there may be."""
    raw = pairs(15 << 20).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    return folder


def _index(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    entries = ",".join(f'"{i:x}":"model-00001-of-00001.safetensors"' for i in range(1_000_000))
    (folder / "model.safetensors.index.json").write_text('{"weight_map":{' + entries + "}}")
    return folder


def _sizes(**changes: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))
        return folder

    return write


def _gguf_text(folder: Path) -> Path:
    """Keys whose texts are as long as they may be, in characters of four bytes beside plain ones."""
    texts = {f"general__text{i}": "a" * (15 << 20) + "\U0001f600" for i in range(6)}
    return write_gguf(folder, folder.parent / "texts.gguf", **texts)


def _gguf_blocks(folder: Path) -> Path:
    return write_gguf(folder, folder.parent / "blocks.gguf", qwen3moe__block_count=(1 << 32) - 1)


BOMBS: dict[str, Callable[[Path], Path]] = {
    "config of lists": _json("config.json", nested, 20 << 20),
    "config of objects": _json("config.json", pairs, 20 << 20),
    "config of keys": _json("config.json", keys, 20 << 20),
    "configuration too large to be one": _json("config.json", nested, 70 << 20),
    "generation": _json("generation_config.json", pairs, 10 << 20),
    "tokenizer's configuration": _json("tokenizer_config.json", pairs, 10 << 20),
    "tokenizer": _json("tokenizer.json", nested, 100 << 20),
    "header": _header,
    "index": _index,
    "layers": _sizes(num_hidden_layers=1 << 31),
    "experts": _sizes(num_experts=1 << 31),
    "vocabulary": _sizes(vocab_size=1 << 40),
    "width": _sizes(hidden_size=1 << 40),
    "context": _sizes(max_position_embeddings=1 << 60),
    "GGUF texts": _gguf_text,
    "GGUF layers": _gguf_blocks,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_grows_when_it_is_read_is_refused_in_time(tmp_path: Path, name: str) -> None:
    source = BOMBS[name](write_qwen3(tmp_path / "ck", CONFIG))
    command = [sys.executable, "-m", "hobbit_export", str(source), "--out", str(tmp_path / "bundle")]
    done, peak = run_measured([*command, "--memory", f"{CEILING}B", "--no-self-check"])
    assert done.returncode == 78, done.stderr[-300:]
    assert re.search(r"hobbit-export: .*: .*expected|--memory .*: .*raise --memory to at least \d+MiB", done.stderr)
    assert peak < CEILING


def test_a_text_of_any_length_is_read_as_far_as_it_is_run(tmp_path: Path) -> None:
    """A calibration text of 600 MB, of which a page is prose and the rest a hole."""
    checkpoint, text = write_qwen3(tmp_path / "ck", CONFIG), tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog.\n" * 3000)
    with open(text, "r+b") as file:
        file.truncate(600 * 10**6)
    flags = ["--out", str(tmp_path / "bundle"), "--memory", "400MiB", "--no-self-check", "--calibrate", str(text)]
    done, peak = run_measured([sys.executable, "-m", "hobbit_export", str(checkpoint), *flags])
    assert done.returncode == 0, done.stderr[-300:]
    assert peak < 400 * MIB


@pytest.mark.parametrize(
    "make", [nested, pairs, keys, lambda size: json.dumps({"ä" * 9: ["\U0001f600"] * (size // 20)})]
)
def test_the_estimate_is_more_than_parsing_takes(make: Callable[[int], str]) -> None:
    raw = make(4 << 20).encode()
    before = resident_bytes()
    data = json.loads(raw)
    taken = resident_bytes() - before
    assert data
    assert 0 < taken < json_bytes(raw)
