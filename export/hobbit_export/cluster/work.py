"""One step of an export, done by a worker on some machine: it reads and writes the storage that all machines share.

Nothing here knows which engine brought the order. A step's bytes depend on source and options alone, so any machine
may do it, and do it again.
"""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Part
from hobbit_export import __version__
from hobbit_export.ceiling import resident_bytes
from hobbit_export.fingerprint import fingerprint
from hobbit_export.memory import limit_heap, share_memory
from hobbit_export.opening import open_source
from hobbit_export.options import ExportOptions
from hobbit_export.parts import STAGING, publish
from hobbit_export.source import SourceModel
from hobbit_export.steps import Job, all_steps

BEAT = "beat"
"""File in a step's staging folder: bytes read so far."""
_BEAT_S = 1.0


@dataclass(frozen=True)
class Order:
    """What a worker is asked for.

    Attributes:
        run: names this run of the driver; its folder below the staging folder is deleted when another begins, which
            ends what workers of this one may still do.
        attempt: of this step.
        fingerprint: of the export; a worker that sees another source must not touch the bundle.
        spec: the model as the driver sees it.
    """

    options: ExportOptions
    step: str
    run: str
    attempt: int
    program: str
    fingerprint: dict[str, Any]
    spec: ModelSpec

    @property
    def folder(self) -> Path:
        """Where the step writes before its files are finished."""
        return staging_of(self.options.out, self.run) / f"{self.step.replace(' ', '_')}.{self.attempt}"


@dataclass(frozen=True)
class Done:
    """A finished step: its parts are in their places and on the drive."""

    step: str
    parts: list[Part]
    data: dict[str, Any]
    bytes_read: int
    seconds: float
    node: str
    peak_rss_bytes: int


def staging_of(out: Path, run: str) -> Path:
    """Return the staging folder of one run of a driver."""
    return out / STAGING / run


def beat_of(order: Order) -> int:
    """Return how many bytes of the checkpoint a step has read so far, as its worker last said."""
    try:
        return int((order.folder / BEAT).read_text() or 0)
    except (OSError, ValueError):
        return 0


def run_order(order: Order) -> Done:
    """Do one step, here.

    Raises:
        ConfigError: this machine has another program, or does not see the storage.
        BundleError: it sees another checkpoint; or the checkpoint lies.
        BudgetError: `memory_bytes` do not suffice.
    """
    started, options, node = time.monotonic(), order.options, platform.node()
    _check_machine(order, node)
    source = _source(options)
    if fingerprint(source, options) != order.fingerprint or source.spec != order.spec:
        raise BundleError(f"{options.checkpoint}: node {node!r} sees other files than the one that began the export.")
    beat = _Beat(order)
    memory = share_memory(source, options, resident_bytes())
    step = next(s for s in all_steps(Job(source, options, memory, beat.count)) if s.name == order.step)
    order.folder.mkdir()
    written = step.run(order.folder)
    parts = [publish(options.out, order.folder, name, role, step.layer) for name, role in written.files]
    shutil.rmtree(order.folder)
    seconds = round(time.monotonic() - started, 3)
    return Done(order.step, parts, written.data, beat.bytes, seconds, node, resident_bytes("VmHWM"))


def _check_machine(order: Order, node: str) -> None:
    out = order.options.out
    if order.program != __version__:
        raise ConfigError(
            f"node {node!r}: expected hobbit-export {order.program}, found {__version__}. Install the same everywhere."
        )
    if not staging_of(out, order.run).is_dir():
        raise ConfigError(
            f"node {node!r}: does not see {out}. --out and the checkpoint must be on storage that every node has "
            "mounted at the same path; or another export has begun there."
        )


@lru_cache(maxsize=1)
def _source(options: ExportOptions) -> SourceModel:
    """Open a checkpoint once a process: workers do many steps."""
    limit_heap()
    return open_source(options)


class _Beat:
    """Counts bytes read, and says so in a file now and then."""

    def __init__(self, order: Order) -> None:
        self._path, self._next, self.bytes = order.folder / BEAT, 0.0, 0

    def count(self, more: int) -> None:
        self.bytes += more
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _BEAT_S
            self._path.write_text(str(self.bytes))
