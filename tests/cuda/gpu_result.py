"""The file `make gpu-check` writes: what it ran on, which parts passed, and each check that failed by its name."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cuda.gpu_failures import ChecksFailed, is_lost, said_of

from edge_runtime.backends.cuda.cubins import cache_folder
from edge_runtime.backends.cuda.driver import Device
from edge_runtime.backends.cuda.nvrtc import Nvrtc, dotted
from edge_runtime.base.errors import DeviceError
from edge_runtime.lab.bringup.machine import jetson_linux, power_mode
from edge_runtime.telemetry.hardware import describe_hardware

MOST_LISTED, MOST_LINE = 40, 900
"""Failed checks of a part in the file, and characters of the last line."""


class Parts:
    """Runs parts in order and keeps what each found; the file is written whatever happens.

    A part that fails does not keep the next ones from running. A lost context does: every call of the driver fails.

    Args:
        path: of the result file.
        known: what is in it besides.
    """

    def __init__(self, path: Path, known: dict[str, Any]) -> None:
        self._path, self._is_lost = path, False
        self._result = {**known, "passed": [], "skipped": [], "failed": [], "not_run": [], "why": {}}
        self._start = time.monotonic()
        self._write()

    def run(self, name: str, part: Callable[[], Any]) -> Any:
        """Run a part, and return what it found; None where that is nothing. One that was skipped has not passed."""
        if self._is_lost:
            self._result["not_run"].append(name)
            print(f"{name}: NOT RUN, the GPU cannot be used any more", flush=True)
            found = None
        else:
            found = self._found(name, part)
        if found is not None:
            self._result[name] = found
        self._write()
        return found

    def _found(self, name: str, part: Callable[[], Any]) -> Any:
        try:
            found = part()
        except ChecksFailed as err:
            self._fail(name, err.failed)
            self._is_lost = err.is_lost
            return err.found
        except BaseException as err:
            self._fail(name, [said_of(err)])
            self._is_lost = is_lost(err)
            if not isinstance(err, Exception):  # somebody stopped it
                self._write()
                raise
            traceback.print_exc()
            return None
        self._result["skipped" if isinstance(found, dict) and "skipped" in found else "passed"].append(name)
        return found

    def _fail(self, name: str, failed: list[str]) -> None:
        left_out = len(failed) - MOST_LISTED
        self._result["failed"].append(name)
        self._result["why"][name] = failed[:MOST_LISTED] + ([f"and {left_out} more"] if left_out > 0 else [])

    def leave_out(self, name: str, why: str) -> None:
        """Say why a part was not run."""
        print(f"{name}: SKIPPED, {why}", flush=True)
        self.run(name, lambda: {"skipped": why})

    @property
    def failed(self) -> str:
        """What failed, in a line; "" if nothing did."""
        return "; ".join(f"{name}: {', '.join(said)}" for name, said in self._result["why"].items())[:MOST_LINE]

    def _write(self) -> None:
        self._result["seconds"] = round(time.monotonic() - self._start, 1)
        self._path.write_text(json.dumps(self._result, indent=1) + "\n", encoding="utf-8")


class NotedCompiler:
    """Makes the compiler, and knows which it was.

    Args:
        library: path of libnvrtc; None: looked for.
    """

    def __init__(self, library: str | None) -> None:
        self._library, self._made = library, list[Nvrtc]()

    def __call__(self) -> Nvrtc:
        self._made.append(Nvrtc(self._library))
        return self._made[-1]

    def folder(self, empty: Path) -> Path:
        """Return where kernels are kept: an empty folder; where nothing compiles them, those the backend would take."""
        try:
            Nvrtc(self._library)
        except DeviceError:
            return cache_folder()
        return empty

    @property
    def said(self) -> str:
        """What the kernels that run were made by."""
        return f"NVRTC {dotted(self._made[-1].version)}" if self._made else "kept cubin"


def describe(device: Device, compiler: NotedCompiler, root: Path = Path("/")) -> dict[str, Any]:
    """Return what the figures are measured on; what cannot be read is None.

    Args:
        device: the GPU.
        compiler: of its kernels.
        root: where the system's files are; tests pass a fake tree.
    """
    hardware = describe_hardware(Path(__file__).parent, root)
    return {
        "device": device.name,
        "arch": device.arch,
        "multiprocessors": device.multiprocessors,
        "gpu_memory_bytes": device.total_bytes,
        "driver_cuda": device.driver.version,
        "compiler": compiler.said,
        **{name: hardware[name] for name in ("board", "cpu", "memory_bytes", "kernel")},
        "jetson_linux": jetson_linux(root),
        "power_mode": power_mode(),
    }


def result_path(folder: Path, known: dict[str, Any]) -> Path:
    """Return the file for a GPU on a board, in a folder that is there: the GPU of every Orin has the same name.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(filter(None, (known["device"], known["board"])))
    return folder / f"gpu_check_{''.join(c if c.isascii() and c.isalnum() else '_' for c in name)[:100]}.json"
