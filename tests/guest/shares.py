"""`--memory auto` under cgroups of version 2: what it is given and what it uses. Run by `boot.py`, for `all_shares.py`.

    PYTHONPATH=tests python tests/guest/shares.py BUNDLE --runs 60=20,40=20,25=20 [--tokens 8]

The bundle is copied to /tmp, a drive of the guest's own. Prints a line of JSON for each run, shares in turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

TEXT = "".join(chr(33 + i) for i in range(94)) + "".join(chr(0x80 + 37 * i) for i in range(50))
"""Each of its bytes is a token: enough for the memory that long prompts compute in to be used, too."""
MARK = "share-run:"


def ran(bundle: Path, share: int, limit: int, tokens: int) -> dict[str, Any]:
    """Run once in a cgroup of a limit; return what came of it."""
    from memory_groups import MemoryGroup  # the host, which only reads what is printed, does without

    command = [sys.executable, "-m", "edge_runtime", "run", str(bundle), "--json", "--prompt", TEXT]
    command += ["--max-tokens", str(tokens), "--context", "256", "--ignore-eos", "--no-self-check"]
    started = monotonic()
    with MemoryGroup(limit) as group:
        done = subprocess.run([*group.prefix, *command], capture_output=True, text=True, check=False)
        kills = group.kills()
    found: dict[str, Any] = {
        "share_percent": share, "limit_bytes": limit, "exit_code": done.returncode, "oom_kills": kills,
        "kernel": platform.release(), "seconds": round(monotonic() - started, 1),
    }  # fmt: skip
    if done.returncode:
        return found | {"said": done.stderr[-500:]}
    report = json.loads(done.stdout)
    memory = report["memory"]
    return found | {
        "budget_bytes": memory["budget_bytes"], "peak_rss_bytes": memory["peak_rss_bytes"],
        "evicted": report["experts"]["evicted"],
    }  # fmt: skip


def interleaved(runs: Mapping[int, int]) -> Iterator[int]:
    """Yield shares in turn, until each had its runs."""
    for number in range(max(runs.values(), default=0)):
        yield from (share for share, wanted in runs.items() if number < wanted)


def main() -> None:
    """Run every share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", required=True, help="percent=runs, ...")
    parser.add_argument("--tokens", type=int, default=8)
    args = parser.parse_args()
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        raise SystemExit("shares: /sys/fs/cgroup is no cgroup of version 2")
    bundle = Path("/tmp/bundle")
    shutil.copytree(args.bundle, bundle)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    runs = {int(share): int(count) for share, count in (each.split("=") for each in args.runs.split(","))}
    for share in interleaved(runs):
        print(MARK, json.dumps(ran(bundle, share, size * share // 100, args.tokens)), flush=True)


if __name__ == "__main__":
    main()
