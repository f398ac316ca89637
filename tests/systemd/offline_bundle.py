"""The offline bundle for this machine that `make offline` wrote, for machines that tests boot without a network."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools/release"))

import common
import fresh

TARGET = {"x86_64": "x86-64", "aarch64": "arm64"}.get(platform.machine(), "")
BLIND = "mkdir -p /srv/here; for name in cc c++ gcc g++ pip pip3; do rm -f /usr/bin/$name /usr/local/bin/$name; done"
"""Run in a machine, so that no compiler and no pip of its own is used."""


def newest_bundle(otherwise: str) -> Path:
    """Return it; skips the test, and says what was not done, where there is none. One of an earlier state is refused."""
    found = REPO / f"dist/hobbit-edge-{common.version()}-{TARGET}.tar.gz"
    if not found.exists():
        pytest.skip(f"no offline bundle of this version for this machine in dist/ (make offline); {otherwise}")
    fresh.check(found)
    return found
