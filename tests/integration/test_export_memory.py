"""--memory is a ceiling: peak resident memory, measured from outside, on a checkpoint several times larger."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from synthetic import hobbit_export, qwen3_config, write_qwen3

MIB = 1 << 20
CEILING = 200 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("tiers", ["8", "8,bf16"])
def test_peak_memory_stays_under_the_ceiling(tmp_path: Path, tiers: str) -> None:
    layers = 6 if tiers == "8" else 3
    checkpoint = write_qwen3(tmp_path / "big", qwen3_config(1024, 2048, 16, layers, vocab_size=8192))
    source_bytes = (checkpoint / "model.safetensors").stat().st_size
    assert source_bytes > 3 * CEILING
    process = hobbit_export(
        checkpoint, "--out", tmp_path / "bundle", "--memory", f"{CEILING}B", "--tiers", tiers, "--json"
    )
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    text, problems = out.read(), err.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, problems) == (0, "")
    peak = usage.ru_maxrss * 1024
    assert peak < CEILING
    report = json.loads(text)
    assert abs(report["peak_rss_bytes"] - peak) < 8 * MIB
    assert report["bytes_read"] == 2 * 3 * 1024 * 2048 * 16 * layers
