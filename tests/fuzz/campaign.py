"""Fuzz bundles for a while: `python tests/fuzz/campaign.py BUNDLE --count 5000` or `--seconds 600`.

Every try has a number; it is the seed, so that one can be repeated with `--first N --count 1`. What fails is kept.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

BUDGET = 260 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--step", type=int, default=1, help="seeds to go on by, where several campaigns run side by side"
    )
    parser.add_argument("--kind")
    parser.add_argument("--fp4", action="store_true", help="fuzz a bundle of 4-bit floats with an int4 trunk instead")
    parser.add_argument("--inputs", action="store_true", help="fuzz files beside bundles; see inputs.py")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
        return campaign(args, Path(folder))


def campaign(args: argparse.Namespace, folder: Path) -> int:
    """Run tries until the count or the time is over; print what failed, and a summary."""
    from fuzz.inputs import ALLOWED, World, small_bundle, try_input
    from fuzz.tries import try_bundle, warm

    bundle = small_bundle(folder) if args.fp4 else args.bundle
    warm(bundle)
    world, allowed = None, (0, 78)
    if args.inputs:
        world, allowed = World(args.bundle, folder), ALLOWED
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, largest, failed = 0.0, 0, 0
    started = time.monotonic()
    for i in range(args.count):
        if time.monotonic() - started > args.seconds:
            break
        seed = args.first + i * args.step
        rng = random.Random(seed)
        if world is None:
            kind, ending = try_bundle(bundle, folder, rng, BUDGET, kind=args.kind)
        else:
            kind, ending = try_input(world, folder / "try", rng, kind=args.kind)
        problem = ending.problem(BUDGET, allowed)
        outcomes[f"{kind}: {'failed' if problem else ending.code}"] += 1
        slowest, largest = max(slowest, ending.seconds), max(largest, ending.peak_bytes)
        if problem is not None:
            failed += 1
            kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{seed}-"))
            name = "bundle" if world is None else "try"
            shutil.copytree(folder / name, kept / name, dirs_exist_ok=True)
            print(f"seed {seed} ({kind}): {problem}, kept in {kept}\n{ending.output[-1500:]}", flush=True)
    print(json.dumps({
        "tries": sum(outcomes.values()), "failed": failed, "outcomes": dict(sorted(outcomes.items())),
        "slowest_cpu_s": round(slowest, 2), "largest_mib": largest >> 20, "wall_s": round(time.monotonic() - started),
    }, indent=1))  # fmt: skip
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
