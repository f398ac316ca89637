"""`--memory auto` under cgroups of version 2: finishes, is not killed, and uses what it is given. Run by `boot.py`.

    PYTHONPATH=tests python tests/guest/shares.py BUNDLE [--shares 60,40,25] [--runs 1] [--tokens 12]

The bundle is copied to /tmp, a drive of the guest's own. Prints a line for each run; ends with 1 if one was killed,
failed, or used less than 85 % of its limit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from memory_groups import MemoryGroup

TEXT = "".join(chr(33 + i) for i in range(94)) + "".join(chr(0x80 + 37 * i) for i in range(50))
LEAST_USED = 0.85


def ran(bundle: Path, limit: int, tokens: int) -> bool:
    """Run once in a cgroup of a limit, say what came of it, and return whether that was right."""
    command = [sys.executable, "-m", "edge_runtime", "run", str(bundle), "--json", "--prompt", TEXT]
    command += ["--max-tokens", str(tokens), "--context", "256", "--ignore-eos", "--no-self-check"]
    with MemoryGroup(limit) as group:
        done = subprocess.run([*group.prefix, *command], capture_output=True, text=True, check=False)
        kills = group.kills()
    if done.returncode or kills:
        print(
            f"limit {limit >> 20} MiB: exit code {done.returncode}, {kills} killed: {done.stderr[-1000:]}", flush=True
        )
        return False
    report = json.loads(done.stdout)
    memory, evicted = report["memory"], report["experts"]["evicted"]
    used = memory["peak_rss_bytes"] / limit
    budget, peak = memory["budget_bytes"] >> 20, memory["peak_rss_bytes"] >> 20
    print(f"limit {limit >> 20} MiB, budget {budget}, peak {peak}: {100 * used:.1f} %, {evicted} evicted", flush=True)
    return LEAST_USED <= used <= 1


def main() -> int:
    """Run every share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--shares", default="60,40,25")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=12)
    args = parser.parse_args()
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        raise SystemExit("shares: /sys/fs/cgroup is no cgroup of version 2")
    bundle = Path("/tmp/bundle")
    shutil.copytree(args.bundle, bundle)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    limits = [size * int(share) // 100 for share in args.shares.split(",")]
    found = [ran(bundle, limit, args.tokens) for _ in range(args.runs) for limit in limits]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
