"""How warm the first request of a warm start is: hit rates, counted, so that other load changes nothing.

    python benchmarks/bench_warm_start.py BUNDLE --tokens stream.json [--memory 2GiB] [--out FILE]

A workload of some requests is run with --warm-start, then followed by others in three ways. *Steady*: an engine that
has answered everything before. *Cold*: a new engine. *Warm*: a new engine that has read what the workload used, once,
no more than its cache holds. Prints hits by lookups of prompt and answer for each of the other requests, and what the
warm engines read; times are those of this machine as it was loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_runtime import Engine, SamplingParams
from edge_runtime.lab.bench.folder import write_whole

_PATIENCE_S = 600.0
_WORKLOAD = "bench"


def hit_rate(engine: Engine, prompt: list[int], args: argparse.Namespace) -> float:
    """Answer a request; return hits by lookups."""
    params = SamplingParams(args.gen_tokens, temperature=1.0, seed=args.seed, ignore_eos=True)
    experts = engine.generate(prompt, params).experts
    return float(experts["hits"] / experts["lookups"])


def preloaded(engine: Engine) -> dict[str, Any]:
    """Wait until an engine has read what it remembers; return what it says of it."""
    preload = engine.parts.preload
    assert preload is not None, "no warm start was asked for"
    deadline = time.monotonic() + _PATIENCE_S
    while not preload.state.is_over and time.monotonic() < deadline:
        time.sleep(0.01)
    return {**preload.to_json(), "cache_bytes": engine.plan.arena_bytes}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Learn, then compare."""
    ids = json.loads(Path(args.tokens).read_text(encoding="utf-8"))
    cut = [ids[n * args.distance : n * args.distance + args.prompt_tokens] for n in range(args.learn + args.others)]
    learned, others = cut[: args.learn], cut[args.learn :]

    def opened(**options: Any) -> Engine:
        return Engine.open(args.bundle, self_check=False, context=512, memory=args.memory, **options)

    with opened(warm_start=_WORKLOAD) as engine:
        for prompt in learned:
            hit_rate(engine, prompt, args)
    with opened() as engine:
        before = [hit_rate(engine, prompt, args) for prompt in learned]
        steady = [hit_rate(engine, prompt, args) for prompt in others]
    rows = []
    for number, prompt in enumerate(others):
        with opened() as engine:
            cold = hit_rate(engine, prompt, args)
        with opened(warm_start=_WORKLOAD) as engine:
            read = preloaded(engine)
            warm = hit_rate(engine, prompt, args)
        rows.append({"cold": cold, "warm": warm, "steady": steady[number], "preload": read})
        print(f"request {number}: cold {cold:.3f}, warm {warm:.3f}, steady {steady[number]:.3f}, {read}", flush=True)
    return {"while_learning": before, "requests": rows}


def main() -> None:
    """Measure and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--tokens", required=True, help="JSON list of token ids that prompts are cut from")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--learn", type=int, default=5, help="requests of the workload")
    parser.add_argument("--others", type=int, default=4, help="requests behind them")
    parser.add_argument("--prompt-tokens", type=int, default=8)
    parser.add_argument("--distance", type=int, default=100, help="tokens from the start of a prompt to the next one")
    parser.add_argument("--gen-tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder  # what was remembered before must not count
        found = measure(args)
    gaps = [100 * (row["steady"] - row["warm"]) for row in found["requests"]]
    found["points_below_steady"] = {"median": round(statistics.median(gaps), 2), "most": round(max(gaps), 2)}
    print(found["points_below_steady"])
    if args.out is not None:
        settings = {name: str(value) for name, value in vars(args).items() if name not in ("out", "bundle", "tokens")}
        write_whole(args.out, (json.dumps({"settings": settings, **found}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
