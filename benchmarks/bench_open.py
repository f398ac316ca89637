"""Processor time from starting Python to an engine that is ready, in fresh processes.

    python -m benchmarks.bench_open BUNDLE --memory 3GiB [--tier 4] [--repeat 5] [--out FILE]

Of the thread that opens, and of all others until then. These take memory for experts from the system, which zeroes it:
work that goes on beside opening and past it, and grows with `--memory`.

The first run finds the trunk's files as the page cache has them and writes Python's byte code, which an installation
has; the others find both there. The self-check, which runs once a bundle and machine, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from benchmarks.source import commit

CHILD = """
import json, sys, time
from edge_runtime import Engine
imported = time.thread_time()
with Engine.open(sys.argv[1], memory=sys.argv[2], tier=int(sys.argv[3]), self_check=False) as engine:
    ready = time.thread_time()
    print(json.dumps({"import_s": imported, "open_s": ready - imported, "other_threads_s": time.process_time() - ready,
                      "bundle_gib": sum(p.bytes for p in engine.parts.bundle.manifest.parts) / 2**30}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--tier", default="4")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep every run as JSON")
    args = parser.parse_args()
    command, found = [sys.executable, "-c", CHILD, args.bundle, args.memory, args.tier], []
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": folder}
        for number in range(args.repeat + 1):
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            found.append(json.loads(done.stdout))
            print(number or "first", *(f"{name}={value:.2f}" for name, value in found[-1].items()))
    own, others = (
        statistics.median(sum(run[name] for name in names) for run in found[1:])
        for names in (("import_s", "open_s"), ("other_threads_s",))
    )
    print(f"median of {args.repeat}: {own:.2f} s of processor time, {others:.2f} s of other threads")
    if args.out:
        settings = {"memory": args.memory, "tier": int(args.tier)}
        kept = {"when": date.today().isoformat(), "commit": commit(), "settings": settings,
                "median": {"own_s": round(own, 3), "other_threads_s": round(others, 3)}, "runs": found[1:]}  # fmt: skip
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
