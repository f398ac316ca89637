"""Take over the file that the owner of a board sent, for docs/hardware.md: tools/bringup_import.py FILE.

The file comes from outside: it is read with a bound, and only what is named here is kept. Writes
benchmarks/results/bringup/BOARD-DATE.json; then run tools/hardware_table.py.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from edge_runtime.lab.bringup.journal import FORMAT, MOST_BYTES

RESULTS = Path(__file__).parents[1] / "benchmarks/results/bringup"
_TEXT, _PARTS = 200, 16
_GPU_CHECK = {"device": str, "arch": str, "driver_cuda": int, "emulated": bool, "date": str}
_MORE = {
    "quick": bool, "board": str, "cpu": str, "memory_bytes": int, "kernel": str, "jetson_linux": str, "power_mode": str,
    "multiprocessors": int, "gpu_memory_bytes": int, "compiler": str,
}  # fmt: skip
"""What a file need not have: it could not be read, or the checkout was of before it."""
_FIGURES = ("checks", "memory", "decode", "graphs", "seconds")
"""Parts of it of which every number, yes and no is kept, and the names above it."""
_DEPTH = 4
_OF_EXPERTS = ("lookups", "hits", "bytes_per_token", "read_gbps")
"""Of those looked up while decoding: the totals of a report hold the prompt's, too."""


def main(arguments: list[str] | None = None) -> int:
    """Read a file and keep what of it is a result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        kept = read(options.file)
    except ValueError as err:
        print(f"{options.file}: {err}", file=sys.stderr)
        return 1
    board = re.sub(r"[^A-Za-z0-9]+", "-", kept["board"]).strip("-")[:60] or "unknown"
    day = next(iter(sorted(step["ended"][:10] for step in kept["steps"].values())), "undated")
    path = options.out / f"{board}-{day}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(path)
    return 0


def read(path: Path) -> dict[str, Any]:
    """Return what is kept of a file.

    Raises:
        ValueError: it is not a bring-up's.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {found['format']!r}")
        steps = {_text(name): _step(step) for name, step in list(found["steps"].items())[:64]}
        hardware = found["machine"].get("hardware", {})
        return {
            "board": _text(hardware.get("board") or hardware.get("cpu") or "unknown"),
            "version": _text(found["about"]["version"]),
            **_tree(found["about"]),
            "steps": steps,
            "gpu_check": _gpu_check(found["gpu_check"]),
        }
    except (KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"expected the file of `hobbit bringup`: {type(err).__name__}: {err}") from err


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """Outcome and, of a benchmark, its figures."""
    kept = {"outcome": _text(step["outcome"]), "ended": _text(step["ended"]), "why": _text(step.get("why", ""))}
    printed = step.get("json")
    timings = printed.get("timings") if isinstance(printed, dict) else None
    choices = printed.get("choices") if isinstance(printed, dict) else None
    if isinstance(choices, dict) and isinstance(choices.get("trunk"), str):
        kept["trunk"] = _text(choices["trunk"])
    if isinstance(timings, dict):
        speeds = {name: timings.get(name) for name in ("prompt_per_second", "predicted_per_second")}
        kept |= {name: value for name, value in speeds.items() if isinstance(value, (int, float))}
    if experts := _numbers(_within(printed, "bench", "decode", "experts"), 1):
        kept["experts"] = {name: experts[name] for name in _OF_EXPERTS if name in experts}
    return kept


def _within(found: Any, *names: str) -> Any:
    """What lies below names, one in the other; None where one is missing."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _gpu_check(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    more = {name: kind for name, kind in _MORE.items() if found.get(name) is not None}
    kinds = {**_GPU_CHECK, **more}
    kept = {name: kind(found[name]) if kind is not str else _text(found[name]) for name, kind in kinds.items()}
    kept |= _tree(found)
    kept |= {name: _texts(found.get(name)) for name in ("passed", "skipped", "not_run", "demo")}
    kept |= {name: figures for name in _FIGURES if (figures := _numbers(found.get(name), _DEPTH)) is not None}
    failed = found.get("failed") or []
    kept["failed"] = _texts([failed] if isinstance(failed, str) else failed)  # checkouts of before had one, or null
    why = found.get("why")
    kept["why"] = {name: _texts(why.get(name)) for name in kept["failed"]} if isinstance(why, dict) else {}
    return kept


def _tree(found: dict[str, Any]) -> dict[str, Any]:
    """What was checked out, and whether it had changes."""
    return {"commit": _text(found.get("commit") or "unknown"), "changed": bool(found.get("changed"))}


def _texts(found: Any) -> list[str]:
    return [_text(each) for each in found[:_PARTS]] if isinstance(found, list) else []


def _numbers(found: Any, depth: int) -> Any:
    """A number or a yes or no that a table may show, or a table of such; None for anything else."""
    if isinstance(found, (int, float)):
        return found if math.isfinite(found) else None
    if not isinstance(found, dict) or not depth:
        return None
    inner = {_text(name): _numbers(value, depth - 1) for name, value in list(found.items())[:_PARTS]}
    return {name: value for name, value in inner.items() if value is not None} or None


def _text(value: Any) -> str:
    """A short text that is one line of a table."""
    return re.sub(r"[^\w .,:;/()+%=-]", " ", str(value))[:_TEXT]


if __name__ == "__main__":
    sys.exit(main())
