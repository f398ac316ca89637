"""Check the CUDA path on this machine's GPU: `make gpu-check`. What everything else rests on comes first: the self-test
of device-only functions, each kernel against the reference, kinds of memory, decoding at models' sizes, the demo.

Prints what passed, and writes benchmarks/results/gpu_check_NAME.json, also when something failed. Without a GPU, a driver or NVRTC it says what is
missing, and checks nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from cuda.bench import Bench
from cuda.gpu_steps import decode_products, demo, demo_engines, make_gpu, memory_kinds
from cuda.kernel_checks import checks

from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.self_test import check_primitives
from edge_runtime.backends.cuda.tensorrt.library import load_library
from edge_runtime.base.errors import DeviceError

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


class NoShim:
    """What tests ask of the emulation, where there is none."""

    def shim_seed(self, seed: int) -> None:
        """A GPU has an order of its own."""


def self_test(device: Device, module: Any) -> bool:
    """Compare each device-only function with tables."""
    for seed in range(3):
        check_primitives(device, module, seed)
    print("self-test of device-only functions: passed", flush=True)
    return True


def kernels(device: Device, module: Any, quick: bool) -> int:
    """Compare each kernel with the reference, `quick` in one case each; return how many checks passed."""
    done, all_checks = 0, list(checks(emulated=False))
    for one in {getattr(check, "func", check): check for check in all_checks}.values() if quick else all_checks:
        with Bench(NoShim(), device, module) as bench:  # type: ignore[arg-type]
            one(bench)
        done += 1
    print(f"kernels against the reference: {done} checks passed", flush=True)
    return done


def memory(device: Device, module: Any, quick: bool) -> dict[str, Any]:
    """Compare and time kinds of memory."""
    found = memory_kinds(device, module, 8 if quick else 65536, 1 if quick else 5)
    for kind, figures in found.items():
        print(f"{kind} memory: the CPU's numbers, {figures['gb_s']} GB/s", flush=True)
    return found


def decode(device: Device, module: Any, kinds: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Time experts at models' sizes, as a share of the bandwidth measured."""
    gb_s = max(figures["gb_s"] for figures in kinds.values()) or 1.0
    found = decode_products(device, module, gb_s, 32 if quick else 1, 1 if quick else 20)
    for name, figures in found.items():
        print(f"experts of {name}, one token: {figures['gb_s']} GB/s, {figures['of_measured']:.0%} of it", flush=True)
    return found


class Parts:
    """Runs parts in order and keeps what each found; the file is written whatever happens.

    Args:
        path: of the result file.
        known: what is in it besides.
    """

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self._path, self._result = path, {**known, "passed": [], "failed": None, "why": None}
        self._start = time.monotonic()

    def run(self, name: str, part: Callable[[], Any]) -> Any:
        """Run a part. An error is kept and raised: what comes behind rests on it."""
        try:
            found = self._result[name] = part()
        except Exception as err:
            self._result |= {"failed": name, "why": f"{type(err).__name__}: {err}"[:500]}
            self.write()
            raise
        self._result["passed"].append(name)
        self.write()
        return found

    def write(self) -> None:
        """Write the file."""
        self._result["seconds"] = round(time.monotonic() - self._start, 1)
        self._path.write_text(json.dumps(self._result, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libcuda", default="libcuda.so.1")
    parser.add_argument("--libnvrtc")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--bundle", type=Path, help="the demo model's bundle; without it the demo is left out")
    parser.add_argument("--quick", action="store_true", help="small sizes, whose times mean nothing")
    options = parser.parse_args(arguments)
    compiler, driver = partial(Nvrtc, options.libnvrtc), partial(Driver, options.libcuda)
    with tempfile.TemporaryDirectory() as folder:
        try:
            device = Device(driver())
            module = load_kernels(device, folder=Path(folder), compiler=compiler)
        except DeviceError as err:
            print(f"gpu-check: SKIPPED, nothing was checked on a GPU: {err}", file=sys.stderr)
            return 0
        name = "".join(c if c.isalnum() else "_" for c in device.name)
        parts = Parts(options.out / f"gpu_check_{name}.json", describe(device, options))
        parts.run("self_test", lambda: self_test(device, module))
        parts.run("checks", lambda: kernels(device, module, options.quick))
        kinds = parts.run("memory", lambda: memory(device, module, options.quick))
        parts.run("decode", lambda: decode(device, module, kinds, options.quick))
        if options.bundle is not None:
            open_gpu = make_gpu(driver, Path(folder), compiler)
            parts.run("demo", lambda: agreed(demo(options.bundle, open_gpu)))
            parts.run("tensorrt", lambda: engines(options.bundle, open_gpu))
    return 0


def describe(device: Device, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures were measured on. A driver that is one of our fakes says so by what it exports."""
    return {
        "device": device.name,
        "arch": device.arch,
        "driver_cuda": device.driver.version,
        "emulated": hasattr(ctypes.CDLL(options.libcuda), "fake_mode"),
        "quick": options.quick,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def engines(bundle: Path, open_gpu: Any) -> dict[str, Any]:
    """Run the demo's trunk as TensorRT engines, where TensorRT is here; else say why they were not."""
    try:
        library = load_library()
    except DeviceError as err:
        print(f"TensorRT: SKIPPED, no engine was built: {err}", flush=True)
        return {"library": None, "skipped": str(err)}
    return {"library": library.name, "agreed": agreed(demo_engines(bundle, open_gpu, library))}


def agreed(ways: Iterable[str]) -> list[str]:
    """Run the demo in some ways; return those in which it gave the CPU's tokens."""
    found = []
    for what in ways:
        print(f"demo, {what}: the CPU's tokens", flush=True)
        found.append(what)
    return found


if __name__ == "__main__":
    sys.exit(main())
