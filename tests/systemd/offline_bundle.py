"""The offline bundle for this machine that `make offline` wrote, for machines that tests boot without a network."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from conftest import REPO

TARGET = {"x86_64": "x86-64", "aarch64": "arm64"}.get(platform.machine(), "")
BLIND = "mkdir -p /srv/here; for name in cc c++ gcc g++ pip pip3; do rm -f /usr/bin/$name /usr/local/bin/$name; done"
"""Run in a machine, so that no compiler and no pip of its own is used."""


def newest_bundle(otherwise: str) -> Path:
    """Return it; skips the test, and says what was not done, where there is none."""
    found = sorted((REPO / "dist").glob(f"hobbit-edge-*-{TARGET}.tar.gz"))
    if not found:
        pytest.skip(f"no offline bundle for this machine in dist/ (make offline); {otherwise}")
    return found[-1]
