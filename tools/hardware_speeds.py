"""The part of docs/hardware.md with speeds: what benchmarks of a bring-up measured, as owners of boards sent it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.base.sizes import MIB

_HEAD = (
    "", "## Speeds", "",
    "What `hobbit bringup` measured. In steps called \"streamed\" memory may hold a quarter of the demo's",
    "experts; the others come from the drive. The last three columns are of decoding alone.", "",
    "| board | step | prompt, tok/s | decode, tok/s | experts found in memory | MiB read a token | drive, GB/s |",
    "|---|---|---|---|---|---|---|",
)  # fmt: skip


def speeds(results: Path) -> list[str]:
    """Return the part's lines; none where no board has sent any.

    Args:
        results: folder of result files.
    """
    rows = [row for path in sorted(results.glob("bringup/*.json")) for row in _rows(json.loads(path.read_text()))]
    return [*_HEAD, *rows] if rows else []


def _rows(found: dict[str, Any]) -> Iterator[str]:
    for name, step in found.get("steps", {}).items():
        if "predicted_per_second" not in step:
            continue
        experts = step.get("experts", {})
        lookups, per_token = experts.get("lookups"), experts.get("bytes_per_token")
        cells = (
            _cell(step.get("prompt_per_second")),
            _cell(step["predicted_per_second"]),
            f"{100 * experts.get('hits', 0) / lookups:.1f} %" if lookups else "unknown",
            _cell(None if per_token is None else per_token / MIB),
            _cell(experts.get("read_gbps")),
        )
        outcome = "" if step["outcome"] == "passed" else f" ({step['outcome']})"
        yield f"| {found['board']} | `{name}`{outcome} | {' | '.join(cells)} |"


def _cell(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
