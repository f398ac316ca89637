"""Runs `shares.py` in an emulated machine until each share of memory had its runs; goes on where it was interrupted.

    python tests/guest/all_shares.py BUNDLE --deb *.deb [--runs 20] --out shares.jsonl

What a run gave is in the file as soon as it is over, a line of JSON each. Ends with 1 if one was killed, failed, or used
less than 85 % of its limit, and says how many were right.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shares import MARK

HERE = Path(__file__).resolve().parent
SHARES, LEAST_USED = (60, 40, 25), 0.85


def is_right(run: dict[str, Any]) -> bool:
    """Whether a run finished, was not killed, and used what it was given."""
    if run["exit_code"] or run["oom_kills"]:
        return False
    return LEAST_USED <= run["peak_rss_bytes"] / run["limit_bytes"] <= 1


def runs_of(path: Path) -> list[dict[str, Any]]:
    """Return the runs a file holds; of a last line that was cut off nothing counts, and it is taken away."""
    if not path.exists():
        return []
    whole, end, _ = path.read_text(encoding="utf-8").rpartition("\n")
    path.write_text(whole + end, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def left(found: list[dict[str, Any]], wanted: int) -> dict[int, int]:
    """Return how many runs each share still has to have."""
    have = [run["share_percent"] for run in found]
    return {share: wanted - have.count(share) for share in SHARES if have.count(share) < wanted}


def boot(args: argparse.Namespace, runs: dict[int, int]) -> int:
    """Run in a machine what is left, note each run, and return the machine's exit code."""
    inside = ["env", f"PYTHONPATH={HERE.parent}", sys.executable, str(HERE / "shares.py"), str(args.bundle.resolve())]
    inside += ["--runs", ",".join(f"{share}={count}" for share, count in runs.items())]
    debs = [str(path) for path in args.deb]
    command = [sys.executable, str(HERE / "boot.py"), "--minutes", str(args.minutes), "--deb", *debs, "--", *inside]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as machine:
        assert machine.stdout is not None
        for line in machine.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if MARK in line:  # the console may have put something before it
                note(args.out, line.partition(MARK)[2].strip())
    return machine.returncode


def note(path: Path, text: str) -> None:
    """Append a run; one whose line the console garbled is run again."""
    try:
        run = json.loads(text)
    except ValueError:
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    """Go on until every share had its runs, or a machine came to nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--deb", type=Path, nargs="+", required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=600, help="most a machine may take")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    while runs := left(found := runs_of(args.out), args.runs):
        print(f"left: {', '.join(f'{count} of {share} %' for share, count in runs.items())}", flush=True)
        code = boot(args, runs)
        if len(runs_of(args.out)) == len(found):
            print(f"the machine ended with {code}, and no run was made")
            return 1
    for share in SHARES:
        mine = [run for run in found if run["share_percent"] == share]
        used = [run["peak_rss_bytes"] / run["limit_bytes"] for run in mine if "peak_rss_bytes" in run]
        span = f"used {100 * min(used):.1f} to {100 * max(used):.1f} %" if used else "nothing finished"
        kills = sum(run["oom_kills"] for run in mine)
        print(f"{share} %: {sum(map(is_right, mine))} of {len(mine)} runs right, {kills} killed, {span}")
    return 0 if all(map(is_right, found)) else 1


if __name__ == "__main__":
    sys.exit(main())
