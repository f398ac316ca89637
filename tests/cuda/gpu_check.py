"""Check the CUDA path on this machine's GPU: `make gpu-check`. What everything else rests on comes first: the self-test
of device-only functions, kinds of memory, each kernel against the reference, the demo, products at models' sizes.

Prints what passed, and writes gpu_check_NAME.json, also when something failed. Without a GPU, a driver or NVRTC it says
what is missing, and ends with 2. Over a fake driver sizes are small, and the file says that it was emulated.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from cuda.without_pytest import stand_in

stand_in()  # before the tests are imported

from cuda.bench import Bench  # noqa: E402
from cuda.gpu_demo import demo, demo_engines, demo_on_provider, graphs, make_gpu  # noqa: E402
from cuda.gpu_steps import decode_products, memory_kinds  # noqa: E402
from cuda.kernel_checks import checks  # noqa: E402

from edge_runtime.backends.cpu.trunk.onnx_runtime import import_onnxruntime  # noqa: E402
from edge_runtime.backends.cuda.driver import Driver  # noqa: E402
from edge_runtime.backends.cuda.gpu import Gpu  # noqa: E402
from edge_runtime.backends.cuda.nvrtc import Nvrtc  # noqa: E402
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
    """Compare each kernel with the reference, `quick` in one case each; return how many checks passed."""
    done, all_checks = 0, list(checks(emulated=False))
    for one in {getattr(check, "func", check): check for check in all_checks}.values() if quick else all_checks:
        with Bench(NoShim(), gpu.device, gpu.module) as bench:  # type: ignore[arg-type]
            one(bench)
        done += 1
    print(f"kernels against the reference: {done} checks passed", flush=True)
    return done


def memory(gpu: Gpu, quick: bool) -> dict[str, Any]:
    """Compare and time kinds of memory."""
    found = memory_kinds(gpu, quick)
    for kind, each in found["kinds"].items():
        print(f"{kind} memory: {each['problem'] or 'the numbers of the CPU'}, {each['gb_s'] or 0:.3g} GB/s", flush=True)
    print(f"chosen: {found['chosen']}, {found['why']}", flush=True)
    return found


def decode(gpu: Gpu, kinds: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Time experts at models' sizes, as a share of the bandwidth measured."""
    found = decode_products(gpu, kinds["device"]["gb_s"], 32 if quick else 1, 1 if quick else 20)
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


class Parts:
    """Runs parts in order and keeps what each found; the file is written whatever happens.

    Args:
        path: of the result file.
        known: what is in it besides.
    """

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self._path, self._result = path, {**known, "passed": [], "skipped": [], "failed": None, "why": None}
        self._start = time.monotonic()
        self.write()

    def run(self, name: str, part: Callable[[], Any]) -> Any:
        """Run a part; one that says it was skipped has not passed. An error is kept and raised: the rest rests on it."""
        try:
            found = self._result[name] = part()
        except BaseException as err:
            self._result |= {"failed": name, "why": f"{type(err).__name__}: {err}"[:500]}
            self.write()
            raise
        self._result["skipped" if isinstance(found, dict) and "skipped" in found else "passed"].append(name)
        self.write()
        return found

    def leave_out(self, name: str, why: str) -> None:
        """Say why a part was not run."""
        print(f"{name}: SKIPPED, {why}", flush=True)
        self.run(name, lambda: {"skipped": why})

    @property
    def failed(self) -> Any:
        """The part that failed, if one did."""
        return self._result["failed"]

    def write(self) -> None:
        """Write the file."""
        self._result["seconds"] = round(time.monotonic() - self._start, 1)
        self._path.write_text(json.dumps(self._result, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libcuda", default="libcuda.so.1")
    parser.add_argument("--libnvrtc")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file; made if it is not there")
    parser.add_argument("--bundle", type=Path, help="the demo model's bundle; without it the demo is left out")
    parser.add_argument("--quick", action="store_true", help="small sizes, whose times mean nothing")
    options = parser.parse_args(arguments)
    compiler, driver = partial(Nvrtc, options.libnvrtc), partial(Driver, options.libcuda)
    with tempfile.TemporaryDirectory() as folder:
        open_gpu = make_gpu(driver, Path(folder), compiler)
        try:
            gpu = open_gpu(0)
        except DeviceError as err:
            print(f"gpu-check: SKIPPED, nothing was checked on a GPU: {err}", file=sys.stderr)
            return NOT_RUN
        try:
            parts = Parts(result_path(options.out, gpu), describe(gpu, options))
        except OSError as err:
            print(f"gpu-check: {options.out}: cannot be written: {err.strerror}. Name another folder with --out.",
                  file=sys.stderr)  # fmt: skip
            gpu.close()
            return 1
        try:
            run(parts, gpu, open_gpu, options)
        except Exception as err:  # noqa: BLE001 - whatever it is, it is the result
            traceback.print_exc()
            print(f"gpu-check: FAILED: {parts.failed}: {type(err).__name__}: {err}".replace("\n", " "), file=sys.stderr)
            return 1
        finally:
            gpu.close()
        return 0


def run(parts: Parts, gpu: Gpu, open_gpu: Any, options: argparse.Namespace) -> None:
    """Run the parts, in order."""
    quick = options.quick or is_emulated(options)
    parts.run("self_test", lambda: self_test(gpu))
    kinds = parts.run("memory", lambda: memory(gpu, quick))["kinds"]
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


def result_path(folder: Path, gpu: Gpu) -> Path:
    """Return the file for a GPU, in a folder that is there.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"gpu_check_{''.join(c if c.isalnum() else '_' for c in gpu.device.name)}.json"


def is_emulated(options: argparse.Namespace) -> bool:
    """Whether the driver is one of our fakes, which says so by what it exports."""
    return hasattr(ctypes.CDLL(options.libcuda), "fake_mode")


def describe(gpu: Gpu, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "device": gpu.device.name,
        "arch": gpu.device.arch,
        "driver_cuda": gpu.device.driver.version,
        "emulated": is_emulated(options),
        "quick": options.quick or is_emulated(options),
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
    """Run the demo in some ways; return those in which it gave the CPU's tokens, and what was left out."""
    found = []
    for what in ways:
        print(f"demo, the CPU's tokens: {what}", flush=True)
        found.append(what)
    return found


if __name__ == "__main__":
    sys.exit(main())
