"""Check the CUDA path on this machine's GPU: `make gpu-check`. What everything else rests on comes first: the self-test
of device-only functions, kinds of memory, each kernel against the reference, the demo, products at models' sizes.

Prints what passed, and writes gpu_check_NAME.json, also when something failed: that is named, and the rest runs. Without
a GPU, a driver or NVRTC it says what is missing, and ends with 2. Over a fake driver sizes are small, and the file says
that it was emulated.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from cuda.without_pytest import stand_in

stand_in()  # before the tests are imported

from cuda.bench import Bench  # noqa: E402
from cuda.gpu_demo import demo, demo_engines, demo_on_provider, graphs, make_gpu  # noqa: E402
from cuda.gpu_failures import ChecksFailed, Failures  # noqa: E402
from cuda.gpu_result import NotedCompiler, Parts, describe, result_path  # noqa: E402
from cuda.gpu_steps import decode_products, memory_kinds  # noqa: E402
from cuda.kernel_checks import checks, name_of  # noqa: E402

from edge_runtime.backends.cpu.trunk.onnx_runtime import import_onnxruntime  # noqa: E402
from edge_runtime.backends.cuda.driver import Driver  # noqa: E402
from edge_runtime.backends.cuda.gpu import Gpu  # noqa: E402
from edge_runtime.backends.cuda.onnx.provider import try_provider  # noqa: E402
from edge_runtime.backends.cuda.self_test import check_primitives  # noqa: E402
from edge_runtime.backends.cuda.tensorrt.library import load_library  # noqa: E402
from edge_runtime.base.errors import DeviceError  # noqa: E402
from edge_runtime.lab.bringup.checkout import source_tree  # noqa: E402

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
NOT_RUN = 2
"""How it ends where nothing could be checked, as every script of checks here does."""


_MET = {True: "met", False: "MISSED", None: "not measured"}


class NoShim:
    """What tests ask of the emulation, where there is none."""

    def shim_seed(self, seed: int) -> None:
        """A GPU has an order of its own."""


def self_test(gpu: Gpu) -> bool:
    """Compare each device-only function with tables."""
    for seed in range(3):
        check_primitives(gpu.device, gpu.module, seed)
    print("self-test of device-only functions: passed", flush=True)
    return True


def kernels(gpu: Gpu, quick: bool) -> int:
    """Compare each kernel with the reference, `quick` in one case each; return how many checks passed.

    Raises:
        ChecksFailed: some failed. The others ran.
    """
    every, failures = list(checks(emulated=False)), Failures()
    chosen = list({getattr(check, "func", check): check for check in every}.values()) if quick else every
    for check in chosen:
        with failures.kept(name_of(check)), Bench(NoShim(), gpu.device, gpu.module) as bench:  # type: ignore[arg-type]
            check(bench)
    passed = len(chosen) - len(failures.failed)
    print(f"kernels against the reference: {passed} of {len(chosen)} checks passed", flush=True)
    failures.finish(passed)
    return passed


def memory(gpu: Gpu, quick: bool) -> dict[str, Any]:
    """Compare and time kinds of memory.

    Raises:
        ChecksFailed: a kind gives the GPU other numbers than the CPU.
    """
    found, failures = memory_kinds(gpu, quick), Failures()
    for kind, each in found["kinds"].items():
        print(f"{kind} memory: {each['problem'] or 'the numbers of the CPU'}, {each['gb_s'] or 0:.3g} GB/s", flush=True)
        with failures.kept(f"{kind} memory"):
            assert not each["is_wrong"], each["problem"]
    print(f"chosen: {found['chosen']}, {found['why']}", flush=True)
    failures.finish(found)
    return found


def decode(gpu: Gpu, kinds: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Time experts at models' sizes, as a share of the bandwidth measured, if it was."""
    gb_s = kinds["device"]["gb_s"] if kinds else None
    found = decode_products(gpu, gb_s, 32 if quick else 1, 1 if quick else 20)
    for name, each in found.items():
        said = each.get("skipped") or f"{each['gb_s']} GB/s, {each['of_measured'] or 0:.0%} of what was measured"
        goal = f", goal {each['goal']:.0%}: {_MET[each['met']]}" if "goal" in each else ""
        print(f"experts of {name}, one token: {said}{goal}", flush=True)
    return found


def launched(found: dict[str, Any]) -> dict[str, Any]:
    """Say what a token of the resident demo took."""
    for name, each in found.items():
        counts = f"{each['launches_a_token']:g} launches and {each['waits_a_token']:g} waits a token"
        print(f"demo resident, {name.replace('_', ' ')}: {each['tok_s']:.3g} tokens a second, {counts}", flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libcuda", default="libcuda.so.1")
    parser.add_argument("--libnvrtc")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file; made if it is not there")
    parser.add_argument("--bundle", type=Path, help="the demo model's bundle; without it the demo is left out")
    parser.add_argument("--quick", action="store_true", help="small sizes, whose times mean nothing")
    options = parser.parse_args(arguments)
    compiler, driver = NotedCompiler(options.libnvrtc), partial(Driver, options.libcuda)
    with tempfile.TemporaryDirectory() as folder:
        open_gpu = make_gpu(driver, compiler.folder(Path(folder)), compiler)
        try:
            gpu = open_gpu(0)
        except DeviceError as err:
            print(f"gpu-check: SKIPPED, nothing was checked on a GPU: {err}", file=sys.stderr)
            return NOT_RUN
        known = describe(gpu.device, compiler) | asked(options)
        try:
            parts = Parts(result_path(options.out, known), known)
        except OSError as err:
            print(f"gpu-check: {options.out}: cannot be written: {err.strerror}. Name another folder with --out.",
                  file=sys.stderr)  # fmt: skip
            gpu.close()
            return 1
        try:
            run(parts, gpu, open_gpu, options)
        finally:
            gpu.close()
        if parts.failed:
            print(f"gpu-check: FAILED: {parts.failed}", file=sys.stderr)
        return 1 if parts.failed else 0


def run(parts: Parts, gpu: Gpu, open_gpu: Any, options: argparse.Namespace) -> None:
    """Run the parts, in order, whatever came of those before."""
    quick = options.quick or is_emulated(options)
    parts.run("self_test", lambda: self_test(gpu))
    kinds = (parts.run("memory", lambda: memory(gpu, quick)) or {}).get("kinds", {})
    parts.run("checks", lambda: kernels(gpu, quick))
    has_demo = options.bundle is not None and (options.bundle / "manifest.json").is_file()
    if options.bundle is not None and not has_demo:
        parts.leave_out("demo", f"{options.bundle.name} is no bundle: export the demo first")
    if has_demo:
        problems = {kind: each["problem"] for kind, each in kinds.items()}
        parts.run("demo", lambda: agreed(demo(options.bundle, open_gpu, problems)))
    parts.run("decode", lambda: decode(gpu, kinds, quick))
    if has_demo:
        parts.run("graphs", lambda: launched(graphs(options.bundle, open_gpu, 3 if quick else 64)))
        parts.run("tensorrt", lambda: engines(options.bundle, open_gpu))
        parts.run("onnx", lambda: on_provider(options.bundle, open_gpu))


def is_emulated(options: argparse.Namespace) -> bool:
    """Whether the driver is one of our fakes, which says so by what it exports."""
    return hasattr(ctypes.CDLL(options.libcuda), "fake_mode")


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, when, and of which tree."""
    emulated = is_emulated(options)
    return {
        "emulated": emulated,
        "quick": options.quick or emulated,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        **source_tree(ROOT),
    }


def engines(bundle: Path, open_gpu: Any) -> dict[str, Any]:
    """Run the demo's trunk as TensorRT engines, where TensorRT is here; else say why they were not."""
    try:
        library = load_library()
    except DeviceError as err:
        print(f"TensorRT: SKIPPED, no engine was built: {err}", flush=True)
        return {"library": None, "skipped": str(err)}
    return {"library": library.name, "agreed": agreed(demo_engines(bundle, open_gpu, library))}


def on_provider(bundle: Path, open_gpu: Any, load: Callable[[], Any] = import_onnxruntime) -> dict[str, Any]:
    """Run the demo's trunk on ONNX Runtime's CUDA provider, where it shows that it works; else say why it was not."""
    try:
        provider = try_provider(0, load)
    except DeviceError as err:
        print(f"ONNX Runtime's CUDA provider: SKIPPED, nothing ran on it: {err}", flush=True)
        return {"library": None, "skipped": str(err)}
    ways = demo_on_provider(bundle, open_gpu, provider)
    return {"library": provider.name, "session_bytes": provider.session_bytes, "agreed": agreed(ways)}


def agreed(ways: Iterable[str]) -> list[str]:
    """Run the demo in some ways; return those in which it gave the CPU's tokens, and what was left out.

    Raises:
        ChecksFailed: some failed, with those that did not.
    """
    found: list[str] = []
    try:
        for what in ways:
            print(f"demo, the CPU's tokens: {what}", flush=True)
            found.append(what)
    except ChecksFailed as err:
        err.found = found
        raise
    return found


if __name__ == "__main__":
    sys.exit(main())
