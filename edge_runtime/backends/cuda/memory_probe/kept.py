"""What was measured of a machine's memory, kept beside the compiled kernels for the next start."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import mmap
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.backends.cuda.blocks import KINDS
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.memory_probe.kinds import Kinds
from edge_runtime.base.strict import from_mapping

FORMAT, _MOST_BYTES = 1, 16 << 10
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What was measured, and when.

    Attributes:
        format: of the file.
        fingerprint: of machine, driver and kernels.
        when: day and time, UTC.
        seconds: it took.
        kinds: what came of each kind.
    """

    format: int
    fingerprint: str
    when: str
    seconds: float
    kinds: Kinds

    @classmethod
    def now(cls, gpu: Gpu, kinds: Kinds, seconds: float) -> Measured:
        """Say that this was measured just now."""
        when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
        return cls(FORMAT, fingerprint_of(gpu), when, round(seconds, 3), kinds)


def fingerprint_of(gpu: Gpu) -> str:
    """Return a name, hex, that changes with whatever may change what was measured."""
    system = os.uname()
    parts = (*gpu.device.facts, gpu.fingerprint, system.machine, system.release, mmap.PAGESIZE)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def path_of(gpu: Gpu) -> Path:
    """Return the file for a GPU, which need not be there."""
    return gpu.folder / f"memory-{gpu.device.arch}-{fingerprint_of(gpu)[:24]}.json"


def load(gpu: Gpu) -> Measured | None:
    """Return what was kept for this machine, driver and kernels; None where there is nothing of use."""
    path = path_of(gpu)
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError("it is too large")
        found = from_mapping(Measured, json.loads(text), path.name)
        _check(found, gpu)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        _LOG.warning("cuda: %s is of no use (%s); memory is measured again", path, err)
        return None
    return found


def _check(found: Measured, gpu: Gpu) -> None:
    rates = [rate for each in found.kinds.results.values() for rate in (each.gb_s, each.copy_gb_s) if rate is not None]
    if (found.format, found.fingerprint, set(found.kinds.results)) != (FORMAT, fingerprint_of(gpu), set(KINDS)):
        raise ValueError("it is for something else")
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError("a rate is no positive number")


def keep(gpu: Gpu, measured: Measured) -> None:
    """Keep it, unless something went wrong that may not happen again. A folder that cannot be written is no error."""
    if any(each.passes for each in measured.kinds.results.values()):
        return
    path = path_of(gpu)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            try:
                json.dump(dataclasses.asdict(measured), file, indent=1)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as err:
        _LOG.warning("cuda: what was measured of the memory cannot be kept in %s: %s", path.parent, err.strerror)


def forget(gpu: Gpu) -> None:
    """Remove what is kept: it does not hold any more."""
    try:
        path_of(gpu).unlink(missing_ok=True)
    except OSError as err:
        _LOG.warning("cuda: %s cannot be removed: %s", path_of(gpu), err.strerror)
