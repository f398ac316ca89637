"""How long `make gpu-check` takes by benchmarks/results/time_of_gpu_check.json: the table of docs/cuda.md.

    python tools/gpu_check_time.py            writes the table
    python tools/gpu_check_time.py --check    exits with 1 if it is out of date

The file is written by benchmarks/bench_gpu_check.py, without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import marked_page

ROOT = Path(__file__).parents[1]
PAGE, RESULT = ROOT / "docs/cuda.md", ROOT / "benchmarks/results/time_of_gpu_check.json"
MOST_S = 480
"""What it may take on an H100."""
PARTS = {
    "export": "the demo is exported",
    "compile": "kernels are compiled by NVRTC for one GPU, the slowest of those tried",
    "self_test": "self-test of device-only functions",
    "memory": "kinds of memory compared, and timed",
    "checks": "kernels against the reference",
    "demo": "demo streamed through three kinds of memory, and resident",
    "decode": "products at models' sizes",
    "graphs": "a graph against none",
    "engines, if there": "TensorRT builds ten engines, where it is installed: an allowance",
    "provider, if there": "ONNX Runtime's CUDA provider runs the trunk, where it works: an allowance",
}
"""Parts of the result's estimate, in the order of the table, and what they are."""


def rows(result: dict[str, Any]) -> Iterator[str]:
    """Yield the table."""
    seconds, parts = result["estimate_s"], result["parts"]
    yield "Caption: seconds by part, of a processor of two x86 cores, counted"
    yield f"{_when(result)}."
    yield ""
    yield "| part | seconds | launches | waits |"
    yield "|---|---|---|---|"
    for key, what in PARTS.items():
        counts = [f"{parts[key][name]}" if key in parts else "" for name in ("launches", "waits")]
        yield f"| {what} | {seconds[key]:.1f} | {' | '.join(counts)} |"
    yield f"| together | {total(result):.1f} | | |"


def _when(result: dict[str, Any]) -> str:
    """Day and commit."""
    return f"{result['date']} at {result['commit'] or 'unknown'}{' with changes' if result['changed'] else ''}"


def total(result: dict[str, Any]) -> float:
    """Return the seconds of all parts."""
    return sum(float(result["estimate_s"][key]) for key in PARTS)


def page(text: str) -> str:
    """Return the page with its table."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    return marked_page.put(text, "time of gpu-check", "gpu_check_time", rows(result))


def main(arguments: list[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    return marked_page.write({PAGE: page(PAGE.read_text(encoding="utf-8"))}, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
