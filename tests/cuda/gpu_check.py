"""Check the CUDA path on this machine's GPU: `make gpu-check`. What everything else rests on comes first: the self-test
of device-only functions, each kernel against the reference, kinds of memory, decoding at models' sizes, the demo.

Prints what passed, and writes benchmarks/results/gpu_check_NAME.json. Without a GPU, a driver or NVRTC it says what is
missing, and checks nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from cuda.bench import Bench
from cuda.gpu_steps import decode_products, demo, make_gpu, memory_kinds
from cuda.kernel_checks import checks

from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver
from edge_runtime.backends.cuda.nvrtc import Nvrtc
from edge_runtime.backends.cuda.self_test import check_primitives
from edge_runtime.base.errors import DeviceError

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


class NoShim:
    """What tests ask of the emulation, where there is none."""

    def shim_seed(self, seed: int) -> None:
        """A GPU has an order of its own."""


def check(device: Device, module: Any) -> dict[str, object]:
    """Run everything; an error or an assertion ends it.

    Returns:
        What ran, for the result file.
    """
    start = time.monotonic()
    for seed in range(3):
        check_primitives(device, module, seed)
    print("self-test of device-only functions: passed", flush=True)
    done = 0
    for one in checks(emulated=False):
        with Bench(NoShim(), device, module) as bench:  # type: ignore[arg-type]
            one(bench)
        done += 1
    print(f"kernels against the reference: {done} checks passed")
    return {"device": device.name, "arch": device.arch, "checks": done, "seconds": round(time.monotonic() - start, 1)}


def check_beyond_kernels(device: Device, module: Any, quick: bool) -> dict[str, object]:
    """Compare and time kinds of memory, then decode at models' sizes.

    Args:
        device: the GPU.
        module: the kernels.
        quick: small sizes, for a CPU that plays a GPU: its times mean nothing.
    """
    memory = memory_kinds(device, module, 8 if quick else 65536, 1 if quick else 5)
    for kind, figures in memory.items():
        print(f"{kind} memory: the CPU's numbers, {figures['gb_s']} GB/s", flush=True)
    gb_s = max(figures["gb_s"] for figures in memory.values()) or 1.0
    decode = decode_products(device, module, gb_s, 32 if quick else 1, 1 if quick else 20)
    for name, figures in decode.items():
        print(f"experts of {name}, one token: {figures['gb_s']} GB/s, {figures['of_measured']:.0%} of it", flush=True)
    return {"memory": memory, "decode": decode, "quick": quick}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libcuda", default="libcuda.so.1")
    parser.add_argument("--libnvrtc")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--bundle", type=Path, help="the demo model's bundle; without it the demo is left out")
    parser.add_argument("--quick", action="store_true", help="small sizes, whose times mean nothing")
    options = parser.parse_args(arguments)
    compiler = partial(Nvrtc, options.libnvrtc)
    with tempfile.TemporaryDirectory() as folder:
        try:
            device = Device(Driver(options.libcuda))
            module = load_kernels(device, folder=Path(folder), compiler=compiler)
        except DeviceError as err:
            print(f"gpu-check: SKIPPED, nothing was checked on a GPU: {err}", file=sys.stderr)
            return 0
        result = {**check(device, module), "driver_cuda": device.driver.version}
        result |= check_beyond_kernels(device, module, options.quick)
        agreed = []
        if options.bundle is not None:
            for what in demo(options.bundle, make_gpu(partial(Driver, options.libcuda), Path(folder), compiler)):
                print(f"demo, {what}: the CPU's tokens", flush=True)
                agreed.append(what)
        result["demo"] = agreed
    name = "".join(c if c.isalnum() else "_" for c in device.name)
    (options.out / f"gpu_check_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
