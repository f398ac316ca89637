"""Elastic memory beside another way at the same time: requests answered, each engine in a memory cgroup of its own.

    sudo python benchmarks/bench_elastic.py busy [--seconds 48] [--out FILE]
    sudo python benchmarks/bench_elastic.py quiet

*busy*: beside a process that takes 200 MiB of 480 every period and gives them back, against an engine with a cache of
200 MiB that stays. *quiet*: nobody else wants memory, against a plain engine with every expert in memory; each of the
two starts first once, since whoever does may have the better processor for as long as it runs.

Both run at the same time, but not on equal terms where other processes want the processors: measure with nothing else
running. That tokens, moves and bytes read are right is tested, whatever runs (`make elastic-check`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from elastic_pair import MIB, Eater, export_experts, side_by_side  # noqa: E402

from benchmarks.compare.machine import identity  # noqa: E402
from benchmarks.source import commit  # noqa: E402
from edge_runtime.lab.bench.folder import write_whole  # noqa: E402

ELASTIC: dict[str, Any] = {"elastic": True}


def rates(lines: list[dict[str, Any]], step_s: float) -> list[float]:
    """The median rate of each step of the time, in tokens a second."""
    slots: dict[int, list[float]] = {}
    for line in lines:
        slots.setdefault(int(line["at"] / step_s), []).append(line["rate"])
    return [round(median(slots[number]), 1) for number in sorted(slots)]


def busy(bundle: Path, seconds: float, period_s: float) -> dict[str, Any]:
    """Elastic against small, beside a process that comes and goes."""
    eater = Eater(200 * MIB, first=period_s / 2, stays=period_s / 2, away=period_s / 2)
    options = {"memory": 200 * MIB}, ELASTIC
    (small, _), (elastic, _) = side_by_side(bundle, 480 * MIB, eater, *options, seconds=seconds)
    found: dict[str, Any] = {}
    for name, lines in (("elastic", elastic), ("small", small)):
        stretches = range(int(seconds / period_s))
        found[name] = {
            "requests": len(lines),
            "by_period": [sum(int(line["at"] / period_s) == number for line in lines) for number in stretches],
            "rates": rates(lines, period_s / 4),
            "slots": [min(line["slots"] for line in lines), max(line["slots"] for line in lines)],
        }
    found["ratio"] = round(len(elastic) / len(small), 3)
    return found


def quiet(bundle: Path, seconds: float, period_s: float) -> dict[str, Any]:
    """Elastic against plain, with nobody else."""
    eater = Eater(MIB, first=period_s / 2, stays=period_s / 2, away=period_s / 2)
    (plain, _), (elastic, _) = side_by_side(bundle, 600 * MIB, eater, {}, ELASTIC, seconds=seconds / 2)
    (again, _), (other, _) = side_by_side(bundle, 600 * MIB, eater, ELASTIC, {}, seconds=seconds / 2)
    mine, theirs = [len(elastic), len(again)], [len(plain), len(other)]
    return {"elastic": mine, "plain": theirs, "ratio": round(sum(mine) / sum(theirs), 3)}


def main() -> None:
    """Measure and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("busy", "quiet"))
    parser.add_argument("--seconds", type=float, default=48.0)
    parser.add_argument("--period", type=float, default=12.0, help="seconds from one coming to the next, about")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_experts(Path(folder))
        measure = {"busy": busy, "quiet": quiet}[args.case]
        found = {
            "case": args.case, "machine": identity(bundle), "commit": commit(), "load_before": round(load, 2),
            "seconds": args.seconds, "period_s": args.period, **measure(bundle, args.seconds, args.period),
        }  # fmt: skip
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if args.out is not None:
        write_whole(args.out, text.encode())


if __name__ == "__main__":
    main()
