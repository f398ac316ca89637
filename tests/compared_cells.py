"""Results of the comparison with peers, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.figures import rows

MACHINE = {"cpu": "C", "cpus": 2, "isa": "avx2"}
PHASES = {"graphs": 128.0, "experts": 64.0, "read_wait": 640.0, "other": 32.0}


def cell(side: str, tok_s: float, regime: str = "50", prefill: float = 60.0, **more: Any) -> dict[str, Any]:
    """A result of 64 tokens; ours needs 40 MB a token of a drive of 2 GB/s (20 ms), and touches 100 MB at 20 GB/s."""
    stages = {
        name: {"n": n, "ms": 1000 * n / rate, "read_bytes": 64, "touched_bytes": n * 100_000_000, "phase_ms": PHASES,
               "experts": {"hits": 1, "late": 0, "misses": 1, "bytes_read": n * 40_000_000, "read_gbps": 2.0}}
        for name, n, rate in (("decode", 64, tok_s), ("prefill", 128, prefill), ("prefill_cold", 128, prefill))
    }  # fmt: skip
    base = {"machine": MACHINE, "model": "S1", "regime": regime, "round": 0, "side": side, "cap_bytes": 1,
            "variant": "lossless" if side == "ours" else "mode", "when": "2026-11-30T08", "bus_gbps": 20.0,
            "drive_gbps": 2.0, "measured": stages}  # fmt: skip
    return base | more


def row(*cells: dict[str, Any]) -> dict[str, Any]:
    (found,) = rows(cells)
    return found
