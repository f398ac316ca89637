"""Processor time from starting Python to an engine that is ready, in fresh processes.

    python benchmarks/bench_open.py BUNDLE --memory 3GiB [--tier 4] [--repeat 5]

The first run finds the trunk's files as the page cache has them, the others find them read. The self-check, which runs
once a bundle and machine, is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

CHILD = """
import json, sys, time
from edge_runtime import Engine
imported = time.process_time()
with Engine.open(sys.argv[1], memory=sys.argv[2], tier=int(sys.argv[3]), self_check=False) as engine:
    print(json.dumps({"import_s": imported, "open_s": time.process_time() - imported,
                      "bundle_gib": sum(p.bytes for p in engine.parts.bundle.manifest.parts) / 2**30}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--tier", default="4")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    found = []
    for number in range(args.repeat):
        command = [sys.executable, "-c", CHILD, args.bundle, args.memory, args.tier]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(number + 1, *(f"{name}={value:.2f}" for name, value in found[-1].items()))
    total = [run["import_s"] + run["open_s"] for run in found]
    print(f"median of {args.repeat}: {statistics.median(total):.2f} s of processor time")


if __name__ == "__main__":
    main()
