"""Which build a peer is: one version built twice is not one program. Reads files; runs `ldd`, nothing of the peer."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path


def build_of(program: Path) -> str:
    """Return a short digest of a program and of the libraries beside it that it loads; the system's are left out."""
    digest = hashlib.sha256()
    for path in (program, *_own_libraries(program)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _own_libraries(program: Path) -> Iterator[Path]:
    try:
        found = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    except OSError:  # no ldd here: the program alone
        return
    for name in sorted(set(re.findall(r"=> (/\S+)", found))):
        if not name.startswith(("/lib", "/usr/lib")):
            yield Path(name)
