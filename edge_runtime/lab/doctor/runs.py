"""Runs of every backend this machine claims to have, and whether the bundle fits its memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from edge_runtime.backends import BACKENDS, ENTRY_POINTS
from edge_runtime.base.children import module_command
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Finding
from edge_runtime.lab.doctor.tiny_model import tiny_model

_LONGEST_S = 300
_ENGINES, _PROVIDER = "cuda:trunk=tensorrt", "cuda:trunk=onnx"
Run = Callable[[Path, str, bool], dict[str, Any]]


def run_backends(device: Device, run: Run | None = None) -> dict[str, dict[str, Any]]:
    """Run a model on every backend, each in a process of its own.

    Args:
        device: names the bundle; the packaged tiny model is taken where it names none.
        run: runs one backend; tests pass their own.

    Returns:
        By name of the backend, what `trial` prints: `state` is 'ran', 'missing', 'failed' or 'crashed'.
    """
    runner = run or run_trial
    with nullcontext(device.bundle) if device.bundle else tiny_model() as bundle:
        assert bundle is not None
        return {name: runner(bundle, name, device.bundle is None) for name in _backends(device)}


def _backends(device: Device) -> list[str]:
    """Names of the registered backends, of further trunks that are installed, and of what installed packages offer."""
    offered = {found.name for found in entry_points(group=ENTRY_POINTS)}
    engines = [_ENGINES] if device.libraries("libnvinfer.so") or device.packages("tensorrt") else []
    provider = [_PROVIDER] if device.packages("onnxruntime_gpu") else []
    return [*BACKENDS, *engines, *provider, *sorted(offered - {*BACKENDS})]


def run_trial(bundle: Path, backend: str, is_tiny: bool) -> dict[str, Any]:
    """Run one backend in a process of its own; see `trial`."""
    command = module_command("edge_runtime.lab.doctor.trial", str(bundle), backend)
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command + (["tiny"] if is_tiny else []), capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"state": "crashed", "why": f"it did not end within {_LONGEST_S} seconds"}
    last = done.stdout.rstrip().rpartition("\n")[2]
    if done.returncode == 0 and last.startswith("{"):
        result: dict[str, Any] = json.loads(last)
        return result
    said = done.stderr.strip().rpartition("\n")[2][:300]
    return {"state": "crashed", "why": f"it ended with code {done.returncode}{': ' if said else ''}{said}"}


def run_findings(device: Device, runs: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Yield what runs say about a machine: a backend that fails, or that is missing though its hardware is there."""
    for name, result in runs.items():
        why = str(result.get("why", ""))
        if result["state"] in ("failed", "crashed"):
            yield Finding(
                "inference", "error", f"{name}: a model does not run: {why}",
                "Only a real inference shows whether a backend works: lists of providers are made when it is compiled.",
                "run `hobbit verify BUNDLE` to tell the bundle from the machine" if device.bundle else
                f"hobbit run BUNDLE --backend {name} -v shows where it fails",
            )  # fmt: skip
        elif result["state"] == "missing" and device.has_gpu_nodes and name in BACKENDS and BACKENDS[name].is_on_gpu:
            yield Finding(
                "gpu-unused", "warning", f"{name}: {why}",
                "The machine has a GPU that cannot be used; everything is computed by the CPU.",
                "mend what the finding names (docs/cuda.md); --backend cpu is not affected",
            )  # fmt: skip
