"""Staging buffers are part of the memory plan, like everything else a backend takes."""

from __future__ import annotations

import pytest

from edge_runtime.backends.cpu.backend import CpuFormulas
from edge_runtime.base.sizes import MIB
from edge_runtime.bundle.manifest_file import read
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine import sizing
from edge_runtime.engine.preparation import prepare

IO_THREADS = 64


@pytest.mark.parametrize("memory", range(60, 90, 3))
def test_staging_buffers_leave_passes_as_long_as_they_were(model_bundle, monkeypatch, memory):
    """The same room beside them gives the CPU's length of a pass and its number of slots."""
    monkeypatch.setattr(sizing, "rss_bytes", lambda: 8 * MIB)
    monkeypatch.setattr(sizing, "reserved_bytes", lambda: 0)  # other tests' hosts may live in this process
    monkeypatch.setattr(CpuFormulas, "library_bytes", lambda formulas: 0)
    staging = IO_THREADS * read(model_bundle).layout.tier_bytes(8)
    found = []
    for backend, room in (("cpu", memory * MIB), ("late", memory * MIB + staging)):
        options = {"backend": backend, "tier": 8, "memory": room, "context": 2048, "io_threads": IO_THREADS}
        ready = prepare(model_bundle, EngineOptions(options), {})
        found.append((ready.config.prefill_chunk, ready.plan.num_slots))
    assert found[0] == found[1]
