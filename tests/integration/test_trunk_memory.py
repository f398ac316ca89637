"""The memory plan's formula against what a process that loads a trunk really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from specs import layer, model_spec
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.memory import LIBRARY_BYTES, plan_trunk_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.native import memory as native_memory
from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ModelSpec, RopeSpec
from edge_runtime.bundle.manifest import ExpertsInfo, Manifest, Part, SourceInfo, TrunkInfo
from hobbit_export.trunk.linear import Precision

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")

SPEC = model_spec(
    *[layer(shared=512)] * 3, vocab_size=8192, hidden=1024, num_heads=16, num_kv_heads=4, head_dim=128,
    max_context=4096, rope=RopeSpec("default", 1e6, 128), num_experts=32, top_k=4, intermediate=64,
    qk_norm="per_head", shared_gate=True,
)  # fmt: skip

# prints resident bytes: of the libraries, of the loaded trunk, the peak of prefill over that, and mapped weight files
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import numpy as np
from edge_runtime.base.spec import ModelSpec
from edge_runtime.backends.cpu.kernels import Team
from edge_runtime.backends.cpu.trunk.native.trunk import NativeTrunk
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk

def open_trunk(path, spec, max_chunk):
    if sys.argv[5] == "native":
        return NativeTrunk(path, ModelSpec.from_json(spec), team=Team(2), max_chunk=max_chunk)
    return OrtTrunk(path, ModelSpec.from_json(spec), threads=1, max_chunk=max_chunk)

def status():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {l.split(":")[0]: int(l.split()[1]) << 10 for l in lines if l.startswith(("RssAnon", "VmRSS", "VmHWM"))}

path, tiny, spec, tiny_spec = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
before = status()
open_trunk(tiny, tiny_spec, 1).close()
library = status()
trunk = open_trunk(path, spec, 64)
loaded = status()
mapped = sum(".data" in line for line in open("/proc/self/maps"))
kv = trunk.new_kv_cache(1024)
for _ in range(4):
    chunk = trunk.begin(np.arange(64, dtype=np.int32), kv)
    for i in range(len(spec["layers"])):
        trunk.run_layer(chunk, i, None)
        trunk.run_shared(chunk, i)
    trunk.head(chunk, None, slice(-1, None))
    trunk.commit(chunk)
print(json.dumps({"library": library["VmRSS"] - before["VmRSS"], "trunk": loaded["RssAnon"] - library["RssAnon"],
                  "transient": loaded["VmHWM"] - loaded["VmRSS"], "prefill": status()["VmHWM"] - loaded["VmRSS"],
                  "kv": kv.nbytes, "mapped": mapped, "said": trunk.weight_bytes}))
"""


class _Noise:
    """Weights of any shape without holding them."""

    def __init__(self, spec: ModelSpec) -> None:
        self._shapes = top_weight_shapes(spec) | layer_weight_shapes(spec, 0)

    def get(self, name: str) -> F32:
        shape = self._shapes[name if name in self._shapes else "layers.0." + name.split(".")[2]]
        return self.rows(name, 0, shape[0]) if len(shape) > 1 else np.ones(shape, np.float32)

    def rows(self, name: str, start: int, stop: int) -> F32:
        shape = self._shapes[name if name in self._shapes else "layers.0." + name.split(".")[2]]
        return np.random.default_rng(start).standard_normal((stop - start, shape[1]), dtype=np.float32) / 32


def _manifest(files: list[Path]) -> Manifest:
    parts = [
        Part(f"trunk/{f.name}", "embedding" if f.suffix == ".bin" else "trunk", f.stat().st_size, "0" * 64, 0)
        for f in files
    ]
    return Manifest(SPEC, ExpertsInfo(1, [2]), TrunkInfo("int4", 128, 18), SourceInfo("x", "0" * 64, 1), parts, "test")


def _measured(tmp_path: Path, precision: Precision, engine: str) -> tuple[dict[str, int], Manifest]:
    """Return what a process that loads a trunk says, and the bundle's manifest."""
    files = write_trunk(SPEC, _Noise(SPEC), tmp_path / "big", precision, 64 << 20)
    tiny = {**SPEC.to_json(), "hidden": 64, "vocab_size": 64, "layers": SPEC.to_json()["layers"][:1]}
    tiny_spec = ModelSpec.from_json(tiny)
    write_trunk(tiny_spec, _Noise(tiny_spec), tmp_path / "tiny", precision)
    arguments = [str(tmp_path / "big"), str(tmp_path / "tiny"), json.dumps(SPEC.to_json()), json.dumps(tiny), engine]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout), _manifest(files)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_plan_is_what_a_process_takes(tmp_path: Path, precision: Precision) -> None:
    got, manifest = _measured(tmp_path, precision, "onnx")
    plan = plan_trunk_bytes(manifest)
    assert got["said"] == plan
    assert 0.9 * plan < got["trunk"] < 1.03 * plan, got
    assert got["mapped"] == 0, "weights are still read from the file"
    assert got["transient"] < 0.1 * plan, "a second copy existed while loading"
    assert got["library"] < LIBRARY_BYTES
    assert got["prefill"] < scratch_bytes(SPEC, 64, 1024) + got["kv"]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_plan_is_what_the_native_trunk_takes(tmp_path: Path, precision: Precision) -> None:
    got, manifest = _measured(tmp_path, precision, "native")
    plan = native_memory.plan_trunk_bytes(manifest)
    assert 0.9 * plan < got["said"] <= plan
    assert 0.9 * got["said"] < got["trunk"] < 1.03 * plan, got
    assert got["mapped"] == 0, "weights are still read from the file"
    assert got["transient"] < 0.1 * plan, "a second copy existed while loading"
    assert got["prefill"] < native_memory.scratch_bytes(SPEC, 64, 2) + got["kv"] + (1 << 20), (
        "Python's objects take a little"
    )
