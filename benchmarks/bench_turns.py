"""A conversation with long prompts under a cap: does a prompt wash out what decoding uses? Beside another checkout.

    python -m benchmarks.bench_turns BUNDLE --tokens stream.json --cap 986MB --other ../before --out FILE.json

A turn is one request of a conversation: 1,000 new prompt tokens, then 64 decoded; keys and values of what came before
are kept. Five turns are run; where the context is full a new conversation begins, with the experts in memory as they
are. Each round starts every side anew, alone in a memory cgroup with an empty page cache, in changing order; the other
side is run by CHECKOUT/.venv/bin/python. Needs root, and a machine that does nothing else. Prints, for each side, the
median over rounds of the time to the first token of turns 2 and later, of the first 16 decoded tokens after it and of
all five turns; and this checkout's times over the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.machine import Ceilings, drop_caches, identity
from benchmarks.source import ROOT, commit
from edge_runtime.base.sizes import parse_size
from edge_runtime.lab.bench.folder import write_whole

HERE, OTHER = "this", "other"
FIGURES = ("ttft_ms", "first_ms", "rest_ms", "later_turns_ms", "all_turns_ms")
Turn = Mapping[str, Any]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("bundle", type=Path)
    found.add_argument("--tokens", type=Path, required=True, help="JSON list of token ids that prompts are cut from")
    found.add_argument("--cap", required=True, help="memory of the whole process, as 986MB; 'none' for no cap")
    found.add_argument("--other", type=Path, metavar="CHECKOUT", help="another checkout, with its .venv")
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--turns", type=int, default=5)
    found.add_argument("--prompt-tokens", type=int, default=1000)
    found.add_argument("--gen-tokens", type=int, default=64)
    found.add_argument(
        "--first-tokens", type=int, default=16, help="decoded tokens that count as right behind a prompt"
    )
    found.add_argument("--context", type=int, default=4096)
    found.add_argument("--tier", default="4")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--group-parent", type=Path, help="cgroup to make groups in")
    found.add_argument("--out", type=Path)
    return found


def cut(ids: Sequence[int], turns: int, tokens: int) -> list[list[int]]:
    """Return the turns' new tokens, one after the other; the stream starts over where it ends.

    Raises:
        SystemExit: it is shorter than one prompt.
    """
    if len(ids) < tokens:
        raise SystemExit(f"--tokens: expected at least {tokens}, got {len(ids)}.")
    return [[ids[(n * tokens + i) % len(ids)] for i in range(tokens)] for n in range(turns)]


def order_of(round_number: int, sides: Sequence[str]) -> list[str]:
    """Return the sides in a round's order: every other round turns it around, so that drift meets both."""
    return list(sides) if round_number % 2 == 0 else list(reversed(sides))


def figures(turns: Sequence[Turn], first_tokens: int) -> dict[str, float]:
    """Return the figures of one conversation, in milliseconds.

    `ttft_ms`, `first_ms` and `rest_ms` are medians over turns 2 and later: to the first token, of a decoded token right
    behind it (mean of the first ones), and of those after them.
    """
    later = turns[1:]
    return {
        "ttft_ms": statistics.median(t["ttft_ms"] for t in later),
        "first_ms": statistics.median(statistics.fmean(t["gap_ms"][:first_tokens]) for t in later),
        "rest_ms": statistics.median(statistics.fmean(t["gap_ms"][first_tokens:]) for t in later),
        "later_turns_ms": sum(t["total_ms"] for t in later),
        "all_turns_ms": sum(t["total_ms"] for t in turns),
    }


def summary(runs: Sequence[Mapping[str, Any]], first_tokens: int) -> dict[str, Any]:
    """Return each side's medians over rounds, and where there are two, this one's over the other's, round by round."""
    by_side: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        by_side.setdefault(run["side"], {})[run["round"]] = figures(run["turns"], first_tokens)
    found: dict[str, Any] = {
        side: {name: round(statistics.median(each[name] for each in rounds.values()), 2) for name in FIGURES}
        for side, rounds in by_side.items()
    }
    both = sorted({*by_side.get(HERE, {})} & {*by_side.get(OTHER, {})})
    if both:
        ratios = {name: [by_side[HERE][n][name] / by_side[OTHER][n][name] for n in both] for name in FIGURES}
        found["this_over_other"] = {
            name: {"median": round(statistics.median(each), 3), "low": round(min(each), 3), "high": round(max(each), 3)}
            for name, each in ratios.items()
        }
    return found


def interpreter(checkout: Path) -> Path:
    """Return a checkout's own interpreter.

    Raises:
        SystemExit: it has none.
    """
    found = checkout / ".venv/bin/python"
    if not found.exists():
        raise SystemExit(f"{found}: expected the checkout's interpreter. Build it there first, with `make demo`.")
    return found.absolute()


def run_side(python: Path | str, job: Mapping[str, Any], group: MemoryGroup, root: Path) -> dict[str, Any]:
    """Run a conversation in its own process.

    Raises:
        SystemExit: it failed.
    """
    argv = group.command([str(python), str(Path(__file__).with_name("turns_side.py"))])
    done = subprocess.run(argv, input=json.dumps(job), capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        why = "killed for exceeding the cap" if group.oom_kills else done.stderr.strip()[-800:]
        raise SystemExit(f"{root.name}: {why}")
    return dict(json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    places = {HERE: (ROOT, Path(sys.executable))}
    if args.other is not None:
        places[OTHER] = (args.other, interpreter(args.other))
    cap = None if args.cap == "none" else parse_size(args.cap)
    options = {"memory": "auto", "tier": args.tier, "threads": args.threads, "context": args.context}
    job = {
        "bundle": str(args.bundle.resolve()), "options": options, "gen_tokens": args.gen_tokens, "seed": args.seed,
        "turns": cut(json.loads(args.tokens.read_text(encoding="utf-8")), args.turns, args.prompt_tokens),
        "first_tokens": args.first_tokens,
    }  # fmt: skip
    ceilings, runs = Ceilings(), []
    commits = {side: commit(root) for side, (root, _) in places.items()}
    for number in range(args.rounds):
        for side in order_of(number, list(places)):
            root, python = places[side]
            load = os.getloadavg()[0]
            drive = ceilings.drive(args.bundle, int(args.tier), block_bytes=1 << 20, depth=8).gbps
            with MemoryGroup(cap, args.group_parent) as group:
                drop_caches()
                found = run_side(python, job, group, root)
            when = datetime.now(timezone.utc).isoformat("T", "seconds")
            run = {"side": side, "commit": commits[side], "round": number, "when": when, "load_before": round(load, 2),
                   "drive_gbps": drive, "bus_gbps": ceilings.bus_gbps(), **found}  # fmt: skip
            runs.append(run)
            shown = {name: round(value, 1) for name, value in figures(run["turns"], args.first_tokens).items()}
            print(
                f"round {number} {side} ({commits[side]}), load {load:.1f}, drive {drive:.2f} GB/s: {shown}", flush=True
            )
            write(args, cap, options, runs)
    print(json.dumps(summary(runs, args.first_tokens), indent=1))
    return 0


def write(args: argparse.Namespace, cap: int | None, options: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Keep what is known so far, whole or not at all."""
    if args.out is None:
        return
    said = {
        "machine": identity(args.bundle),
        "settings": {
            **options, "cap_bytes": cap, "turns": args.turns, "prompt_tokens": args.prompt_tokens,
            "gen_tokens": args.gen_tokens, "first_tokens": args.first_tokens, "seed": args.seed,
        },
        "summary": summary(runs, args.first_tokens),
        "runs": runs,
    }  # fmt: skip
    write_whole(args.out, (json.dumps(said, indent=1) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
