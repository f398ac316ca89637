"""`benchmarks/bench_trunk.py`: passes of some tokens through the trunk alone, beside the memory they read from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_trunk
from edge_runtime.backends.cpu.kernels import available_isas


def test_speed_is_the_weights_over_the_median_pass():
    one, four = bench_trunk.table({1: [4.0, 2.0, 30.0], 4: [8.0]}, 80_000_000, 40.0)
    assert one == {"tokens": 1, "ms": 4.0, "gb_s": 20.0, "of_bus": 0.5, "per_token": 1.0}
    assert four == {"tokens": 4, "ms": 8.0, "gb_s": 10.0, "of_bus": 0.25, "per_token": 0.5}
    assert bench_trunk.table({4: [8.0]}, 1, 1.0)[0]["per_token"] is None


@pytest.mark.parametrize("isa", available_isas())
def test_a_sweep_of_a_bundle(model_bundle, tmp_path, isa, monkeypatch):
    passes: list[tuple[int, int]] = []
    run_pass = bench_trunk.run_pass

    def noted(trunk, spec, kv, tokens):
        passes.append((tokens, kv.length))
        run_pass(trunk, spec, kv, tokens)

    monkeypatch.setattr(bench_trunk, "run_pass", noted)
    out = tmp_path / "trunk.json"
    flags = ["--tokens", "1", "3", "--before", "5", "--rounds", "2", "--threads", "1", "--reader-mib", "8"]
    assert bench_trunk.main([str(model_bundle), *flags, "--isa", isa, "--out", str(out)]) == 0
    said = json.loads(out.read_text())
    assert set(passes) == {(1, 5), (3, 5)}, "nothing of a pass is kept, and there is something before it"
    assert len(passes) == 2 * 2 * 2
    assert said["machine"]["isa"] == isa
    assert [row["tokens"] for row in said["table"]] == [1, 3]
    manifest = json.loads((model_bundle / "manifest.json").read_text())
    stored = sum(
        part["bytes"] for part in manifest["parts"] if part["role"] == "trunk" and "embedding" not in part["name"]
    )
    assert said["weight_bytes"] == pytest.approx(stored, rel=0.1), "float32 is packed as it is stored"
    for row in said["table"]:
        assert row["gb_s"] == pytest.approx(said["weight_bytes"] / row["ms"] / 1e6, rel=0.05)
        assert row["of_bus"] == pytest.approx(row["gb_s"] / said["bus_gb_s"], rel=0.05)
    assert np.isfinite([row["per_token"] for row in said["table"]]).all()
