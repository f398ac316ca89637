"""How long `make gpu-check` takes, as far as that follows without a GPU: python benchmarks/bench_gpu_check.py BUNDLE.

Runs its parts over the fake driver and takes off the time inside the driver's functions, in which a CPU plays the GPU.
What is left is the host's: references, engines opened, launches prepared. It is counted in seconds of a processor,
which other load on the machine does not change much. Kernels are compiled by the real NVRTC where the extra gpu-compile
is installed. `estimate` adds a GPU's share; docs/cuda.md shows the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cuda import gpu_check  # noqa: E402
from cuda.build import build_fakes  # noqa: E402
from cuda.driver_calls import LAUNCHES, WAITS  # noqa: E402
from cuda.gpu_demo import demo, graphs, make_gpu  # noqa: E402
from cuda.gpu_steps import BUDGET_S, MODELS, decode_products, memory_kinds  # noqa: E402

from edge_runtime.backends.cuda.blocks import KINDS  # noqa: E402
from edge_runtime.backends.cuda.driver import Driver  # noqa: E402
from edge_runtime.backends.cuda.nvrtc import Nvrtc  # noqa: E402
from edge_runtime.backends.cuda.sources import read_source  # noqa: E402
from edge_runtime.base.errors import DeviceError  # noqa: E402
from edge_runtime.bundle.record import RecordLayout  # noqa: E402
from edge_runtime.lab.bringup.checkout import source_tree  # noqa: E402
from edge_runtime.telemetry.hardware import describe_hardware  # noqa: E402

GPUS = ("sm_87", "sm_90", "sm_110")
GRAPH_TOKENS, CHECKED_TOKENS = 3, 64


@dataclass
class Spent:
    """Seconds inside the driver's functions, and how often each was called."""

    seconds: float = 0.0
    made: Counter[str] = field(default_factory=Counter)


SPENT = Spent()


class TimedDriver(Driver):
    """The driver, with the time inside its functions taken."""

    def __init__(self, library: str) -> None:
        super().__init__(library)
        self._functions = {name: _timed(name, function) for name, function in self._functions.items()}


def _timed(name: str, function: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        start = time.process_time()
        try:
            return function(*arguments)
        finally:
            SPENT.seconds += time.process_time() - start
            SPENT.made[name] += 1

    return call


def measured(part: Callable[[], Any]) -> dict[str, Any]:
    """Run a part; return its seconds on the host and in the driver, and what it asked of the driver."""
    SPENT.seconds, SPENT.made = 0.0, Counter()
    start = time.process_time()
    part()
    wall, made = time.process_time() - start, SPENT.made
    return {
        "host_s": round(wall - SPENT.seconds, 2),
        "emulated_s": round(SPENT.seconds, 2),
        "calls": sum(made.values()),
        "launches": sum(made[name] for name in LAUNCHES),
        "waits": sum(made[name] for name in WAITS),
    }


def compile_seconds() -> dict[str, Any]:
    """Return how long the real NVRTC takes for each GPU it knows; a reason where there is none."""
    found: dict[str, Any] = {}
    try:
        compiler = Nvrtc()
    except DeviceError as err:
        return {"skipped": str(err)[:200], "seconds": {}}
    for arch in GPUS:
        start = time.process_time()
        try:
            compiler.compile(read_source(), arch)
        except DeviceError:
            continue
        found[arch] = round(time.process_time() - start, 2)
    return {"nvrtc": list(compiler.version), "seconds": found}


LAUNCH_S, WAIT_S = 20e-6, 100e-6
"""What a launch and a wait may take on a GPU: several times what workstations do."""
ALLOWED = {"engines, if there": 150.0, "provider, if there": 60.0}
"""Left to TensorRT for the demo's ten graphs, and to ONNX Runtime's CUDA provider for trying operators and for its
sessions, where they are installed: nobody has timed that."""


def estimate(result: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each part on a GPU whose kernels take no time to speak of: what is computed is small."""
    found = {"export": result["export_s"], "compile": max(result["compile"]["seconds"].values(), default=0.0)}
    for name, part in result["parts"].items():
        found[name] = part["host_s"] + LAUNCH_S * part["launches"] + WAIT_S * part["waits"]
    found["memory"] += len(KINDS) * BUDGET_S
    found["graphs"] *= CHECKED_TOKENS / GRAPH_TOKENS
    return {name: round(seconds, 1) for name, seconds in found.items()} | ALLOWED


def export_seconds() -> float:
    """Return what exporting the demo takes, as `make gpu-check` does it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hobbit_export", str(ROOT / "examples/tiny-moe"), "--out", f"{folder}/bundle"]
        subprocess.run(
            [*command, *["--tiers", "8,4", "--trunk", "fp32", "--no-resume"]], check=True, capture_output=True
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return round(used.ru_utime + used.ru_stime, 1)


def bytes_of_products() -> dict[str, int]:
    """Return the bytes of one layer's experts of a token at 4 bits, by model."""
    return {name: top_k * sum(RecordLayout(d, i, 2).segment_bytes) for name, (d, i, top_k) in MODELS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("demo/bundle"), help="the demo's")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/time_of_gpu_check.json")
    parser.add_argument("--estimate", action="store_true", help="count nothing, add up anew what the file holds")
    options = parser.parse_args()
    out: Path = options.out
    result = json.loads(out.read_text(encoding="utf-8")) if options.estimate else count(options.bundle)
    result["estimate_s"] = estimate(result)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def count(bundle: Path) -> dict[str, Any]:
    """Run the parts; return what each took on this machine."""
    export_s = export_seconds()
    with tempfile.TemporaryDirectory() as folder:
        fakes = build_fakes(Path(folder) / "fakes")
        open_gpu = make_gpu(
            lambda: TimedDriver(str(fakes.libcuda)), Path(folder) / "kernels", lambda: Nvrtc(str(fakes.libnvrtc))
        )
        gpu = open_gpu(0)
        parts: dict[str, Callable[[], Any]] = {
            "self_test": lambda: gpu_check.self_test(gpu),
            "memory": lambda: memory_kinds(gpu, quick=True),
            "checks": lambda: gpu_check.kernels(gpu, quick=False),
            "demo": lambda: list(demo(bundle, open_gpu, {})),
            "decode": lambda: decode_products(gpu, 100.0, 32, 1),
            "graphs": lambda: graphs(bundle, open_gpu, GRAPH_TOKENS),
        }
        found = {}
        for name, part in parts.items():
            found[name] = measured(part)
            print(name, found[name], flush=True)
        gpu.close()
    hardware = describe_hardware(ROOT)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        **source_tree(ROOT),
        "machine": {name: hardware[name] for name in ("cpu", "machine", "cpus", "memory_bytes", "kernel")},
        "load": [round(each, 1) for each in os.getloadavg()],
        "parts": found,
        "export_s": export_s,
        "compile": compile_seconds(),
        "layer_bytes": bytes_of_products(),
    }


if __name__ == "__main__":
    main()
