"""The late backend, registered for the length of a test."""

from __future__ import annotations

import pytest

import late_backend
from edge_runtime import backends


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "late", backends.RegisteredBackend(late_backend.make, "for tests"))
    monkeypatch.setenv("LATE_BACKEND", "late")
