"""How often a workload used each expert, remembered from run to run in the machine's state folder."""

from __future__ import annotations

import json
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.base.arrays import F64, I64
from edge_runtime.bundle.state import make_folder, state_folder

_LOG = logging.getLogger(__name__)
_VERSION = 1
_MAX_BYTES, _BYTES_A_COUNT = 4096, 32
"""A file may have so many bytes, and so many more for each count."""
_KEPT = 0.5
"""Of what was remembered before, when a run is added: habits change, and the last run says most about the next."""


@dataclass(frozen=True)
class UsageFile:
    """Where the uses of one workload of one bundle are remembered.

    Attributes:
        path: the file.
        shape: (L, E) of the model.
    """

    path: Path
    shape: tuple[int, int]

    @staticmethod
    def of(bundle_id: str, name: str, shape: tuple[int, int], folder: Path | None = None) -> UsageFile:
        """Return that of a workload; a bundle exported anew begins anew."""
        return UsageFile((folder or state_folder()) / "warm" / f"{bundle_id[:32]}-{name}.json", shape)

    def read(self) -> F64 | None:
        """Return uses float64 [L, E]; None if nothing was remembered, or what is there is no such file."""
        try:
            found = json.loads(self._bytes())
            if not isinstance(found, dict) or found.get("version") != _VERSION:
                raise ValueError(f"expected version {_VERSION}")
            uses = np.array(found.get("uses"), np.float64)
            if uses.shape != self.shape or not (np.isfinite(uses) & (uses >= 0)).all():
                raise ValueError(f"expected {self.shape[0]} x {self.shape[1]} counts")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ArithmeticError, TypeError, RecursionError) as err:
            _LOG.warning("warm start: %s cannot be used, so nothing is preloaded: %s", self.path, err)
            return None
        return uses

    def _bytes(self) -> bytes:
        """The file's content.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no plain file, or larger than counts of this model are.
        """
        largest = _MAX_BYTES + _BYTES_A_COUNT * self.shape[0] * self.shape[1]
        with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("expected a plain file")
            raw = file.read(largest + 1)
        if len(raw) > largest:
            raise ValueError(f"expected at most {largest} bytes")
        return raw

    def add(self, uses: I64) -> bool:
        """Add a run's uses int64 [L, E]; a run without any changes nothing. Return whether all of them are there."""
        if not uses.any():
            return True
        before = self.read()
        total = uses if before is None else uses + _KEPT * before
        plain = {"version": _VERSION, "uses": [[round(float(n), 3) for n in row] for row in total]}
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            make_folder(self.path.parent)
            part.write_text(json.dumps(plain))
            part.replace(self.path)
        except OSError as err:
            _LOG.warning("warm start: %s cannot be written: %s", self.path, err.strerror)
            return False
        return True


def preload_order(uses: F64) -> list[tuple[int, int]]:
    """Return (layer, expert) of every expert used, the most used first; of equals the lower layer, which runs first."""
    flat = uses.ravel()
    order = np.argsort(-flat, kind="stable")
    used = order[flat[order] > 0]
    layers, experts = np.divmod(used, uses.shape[1])
    return list(zip(layers.tolist(), experts.tolist(), strict=True))
