"""What a result file of `make gpu-check` says on docs/hardware.md: the machine, and a cell for each feature."""

from __future__ import annotations

from typing import Any

from hardware_features import ON_A_GPU

from edge_runtime.base.sizes import format_size

_SAID = {
    "multiprocessors": "{} multiprocessors", "gpu_memory_bytes": "{}", "board": "{}", "cpu": "{}",
    "memory_bytes": "{} of the system", "jetson_linux": "Jetson Linux {}", "power_mode": "power mode {}",
    "kernel": "{}", "compiler": "{}",
}  # fmt: skip
"""What is said of the machine where it is known, in order."""


def machine(check: dict[str, Any]) -> str:
    """Return what it ran on, as far as the file says."""
    said = {name: check[name] for name in _SAID if check.get(name) is not None}
    said |= {name: format_size(said[name]) for name in ("memory_bytes", "gpu_memory_bytes") if name in said}
    more = [_SAID[name].format(value) for name, value in said.items()]
    return ", ".join([f"{check['device']} ({check['arch']})", *more, f"driver for CUDA {check['driver_cuda']}"])


def cells(check: dict[str, Any], age: str) -> dict[str, str]:
    """Return a cell for each feature that its parts show; what was left out of a part is counted.

    Args:
        check: the file.
        age: when it ran, and what.
    """
    failed = check.get("failed") or []
    said = _passed(check) | dict.fromkeys(check.get("skipped", []), "skipped")
    # files of checkouts of before December 2026 name one part
    said |= dict.fromkeys([failed] if isinstance(failed, str) else failed, "**failed**")
    return {name: f"{said[key]}; {age}" for key, names in ON_A_GPU.items() if key in said for name in names}


def _passed(check: dict[str, Any]) -> dict[str, str]:
    """Return what is said of parts that passed."""
    said = dict.fromkeys(check.get("passed", []), "passed")
    if "checks" in said and "checks" in check:
        said["checks"] = f"passed, {check['checks']} checks"
    if "demo" in said and (left_out := sum(" left out: " in way for way in check.get("demo") or [])):
        said["demo"] = f"passed, {left_out} of its ways left out"
    return {key: f"{each}, quick" for key, each in said.items()} if check.get("quick") else said
