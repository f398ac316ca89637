"""The kernels' source as text, and how it is compiled: files of this package, for NVRTC, nvcc and a host compiler."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "kernels"
MAIN = "hobbit.cu"
OPTIONS = ("--std=c++17", "--fmad=false")
"""Of every compiler. Products and sums are fused where the source says so, and no compiler chooses."""


@dataclass(frozen=True)
class KernelSource:
    """What a compiler of kernels is given.

    Attributes:
        main: text of the file with the entry points.
        headers: text of each header by the name it is included by.
    """

    main: str
    headers: dict[str, str]

    def fingerprint(self, arch: str) -> str:
        """Return a name, hex, that changes with anything that changes the compiled kernels but the compiler."""
        digest = hashlib.sha256()
        for text in (arch, *OPTIONS, self.main, *(part for item in sorted(self.headers.items()) for part in item)):
            digest.update(len(text).to_bytes(8, "little") + text.encode())
        return digest.hexdigest()


def read_source(folder: Path = FOLDER) -> KernelSource:
    """Read the kernels' source."""
    headers = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.cuh"))}
    return KernelSource((folder / MAIN).read_text(encoding="utf-8"), headers)
