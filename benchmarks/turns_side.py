"""One side of `bench_turns.py`, alone in a process: reads a job on stdin, runs a conversation, prints one object.

Takes from the checkout whose interpreter runs it nothing but `edge_runtime`, so that older ones can be measured.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edge_runtime import Engine, SamplingParams
from edge_runtime.telemetry.process import drive_bytes, peak_rss_bytes

_COUNTS = ("hits", "late", "misses", "bytes_read")


def counts(engine: Engine) -> dict[str, int]:
    """What only grows: lookups by what became of them, and bytes that the process had the drive read."""
    experts = engine.parts.cache.counters
    return {name: int(getattr(experts, name)) for name in _COUNTS} | {"drive_bytes": drive_bytes() or 0}


def since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def turn(engine: Engine, prompt: list[int], job: dict[str, Any], seed: int) -> tuple[dict[str, Any], list[int]]:
    """Answer one request; return its times and counts, and the tokens drawn."""
    params = SamplingParams(max_tokens=job["gen_tokens"], temperature=1.0, seed=seed, ignore_eos=True)
    marks, tokens, at = [perf_counter_ns()], [], [counts(engine)]
    for delta in engine.stream(prompt, params, reuse_prefix=True):
        marks.append(perf_counter_ns())
        tokens.append(delta.token_id)
        if len(tokens) in (1, 1 + job["first_tokens"]):
            at.append(counts(engine))
    at.append(counts(engine))
    gaps = [round((b - a) / 1e6, 3) for a, b in pairwise(marks[1:])]
    stages = zip(("prompt", "first", "rest"), pairwise(at), strict=True)
    return {
        "prompt_tokens": len(prompt),
        "ttft_ms": round((marks[1] - marks[0]) / 1e6, 3),
        "gap_ms": gaps,
        "total_ms": round((marks[-1] - marks[0]) / 1e6, 3),
        "counts": {name: since(*pair) for name, pair in stages},
    }, tokens


def main() -> None:
    job = json.load(sys.stdin)
    found: list[dict[str, Any]] = []
    with Engine.open(Path(job["bundle"]), self_check=False, **job["options"]) as engine:
        context, history = engine.parts.config.context, []
        for number, ids in enumerate(job["turns"]):
            if len(history) + len(ids) + job["gen_tokens"] > context:
                history = []  # a new conversation: the cache of experts stays
            prompt = history + ids
            result, tokens = turn(engine, prompt, job, job["seed"] + number)
            found.append({"new_tokens": len(ids), "goes_on": bool(history), **result})
            history = prompt + tokens
        said = {
            "turns": found,
            "budget_bytes": engine.parts.plan.budget_bytes,
            "num_slots": engine.parts.plan.num_slots,
            "peak_rss_bytes": peak_rss_bytes(),
        }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
