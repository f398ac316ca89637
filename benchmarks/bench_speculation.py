"""What drafts do to decoding: tokens a second with and without, everything in memory and under caps of expert memory.

    python benchmarks/bench_speculation.py BUNDLE --caps 1,0.5,0.25 --texts code,prose --tokens 96 --rounds 3

The text that is decoded is given, so that models with random weights can be measured: a constraint allows one token at
a time, and everything else is done as for any request. `code`: the prompt is the code of a class, and the answer the
same code with `self` called otherwise. `prose`: prompt and answer follow each other in a book. Each round runs
every mode once on the same engine, in turning order; a figure is the median of the rounds. `off`, `ngram` (every draft
is checked) and `auto` (only while the judge finds it faster) share the cache of experts, as requests of one engine do.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from edge_runtime import Engine
from edge_runtime.engine.job import Event, Job, Outcome
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.engine.speculation.speculation import Speculation

TEXTS = Path(__file__).parents[1] / "examples" / "tiny-moe"
MODES = ("off", "ngram", "auto")


class Given:
    """Allows the tokens of a text, one after the other. Implements `Constraint`."""

    is_complete = False

    def __init__(self, token_ids: list[int], vocab_size: int) -> None:
        self._left, self._allowed = list(reversed(token_ids)), np.zeros(vocab_size, np.bool_)

    def allowed(self) -> np.ndarray:
        """See `Constraint.allowed`."""
        self._allowed[:] = False
        self._allowed[self._left[-1]] = True
        return self._allowed

    def accept(self, token_id: int) -> None:
        """See `Constraint.accept`."""
        assert self._left.pop() == token_id


def text_of(name: str, engine: Engine, prompt_tokens: int, tokens: int) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt, and of what follows it."""
    encode = engine.tokenizer.encode
    if name == "prose":
        ids = list(encode((TEXTS / "heldout_prose.txt").read_text()))
        return ids[:prompt_tokens], ids[prompt_tokens : prompt_tokens + tokens]
    code = (TEXTS / "heldout_python.txt").read_text()
    code = code[code.index("    def __init__(self") :]
    return list(encode(code))[:prompt_tokens], list(encode(code.replace("self", "this")))[:tokens]


def run(scheduler: Scheduler, engine: Engine, prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Decode an answer after its prompt; return what it took."""
    found: list[Event] = []
    params = SamplingParams(max_tokens=len(answer), ignore_eos=True)
    given = Given(answer, engine.spec.vocab_size)
    job = Job(np.array(prompt, np.int32), params, found.append, constraint=given, reuse_prefix=False)
    scheduler.begin(job)
    while not found and scheduler.step():
        pass
    started = process_time()
    while scheduler.step():
        pass
    cpu_s = process_time() - started
    outcome = found[-1]
    if not isinstance(outcome, Outcome):
        raise SystemExit(f"the request failed: {outcome}")
    gaps, s = outcome.timings.token_ms[1:], outcome.speculation or {}
    return {
        "tok_s": round(1000 * len(gaps) / sum(gaps), 2),
        "cpu_ms": round(1000 * cpu_s / len(gaps), 3),
        "stall_ms": outcome.experts["stall_ms"],
        "misses": outcome.experts["misses"],
        "mib_read": round(outcome.experts["bytes_read"] / (1 << 20), 1),
        **{name: s.get(name, 0) for name in ("passes", "drafted", "cut", "accepted", "gain")},
    }


def measure(args: argparse.Namespace, cap: float) -> list[dict[str, Any]]:
    """Return a row for each text and mode under a cap."""
    options = {"memory": args.memory, "context": 2048, "self_check": False, "threads": args.threads, "tier": args.tier}
    with Engine.open(args.bundle, **options) as engine:
        plan = engine.plan
        if cap < 1:
            engine.resize(expert_memory=int(cap * plan.all_experts * plan.slot_bytes))
        parts, rows = engine.parts, []
        scheduler = engine.hand_over(SessionPool.of(parts), SchedulerObserver())
        for text in args.texts.split(","):
            prompt, answer = text_of(text, engine, args.prompt_tokens, args.tokens)
            shared = {mode: None if mode == "off" else Speculation(mode, engine.spec, parts.trunk) for mode in MODES}
            found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
            for round_number in range(-1, args.rounds):
                shift = round_number % len(MODES)
                for mode in MODES[shift:] + MODES[:shift]:
                    parts.speculation = shared[mode]
                    figures = run(scheduler, engine, prompt, answer)
                    if round_number >= 0:
                        found[mode].append(figures)
            rows += [{"cap": cap, "text": text, "mode": mode, **_medians(found[mode])} for mode in MODES]
    return rows


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    known = {key: [one[key] for one in runs if one[key] is not None] for key in runs[0]}
    return {key: round(statistics.median(values), 3) if values else None for key, values in known.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--caps", default="1,0.5,0.25", help="shares of the experts that fit memory")
    parser.add_argument("--texts", default="code,prose")
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--prompt-tokens", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [row for cap in args.caps.split(",") for row in measure(args, float(cap))]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    plain = {(row["cap"], row["text"]): row["tok_s"] for row in rows if row["mode"] == "off"}
    for row in rows:
        ratio = row["tok_s"] / plain[row["cap"], row["text"]]
        what = f"{row['cap']:<5} {row['text']:<6} {row['mode']:<6} {row['tok_s']:>8} tok/s {ratio:5.2f}x"
        what += f" {row['cpu_ms']:>8} ms of processor a token"
        drafts = f"{row['accepted']} of {row['drafted']} accepted, {row['cut']} cut, {row['passes']} passes"
        reads = f"{row['mib_read']} MiB read, waited {row['stall_ms']} ms"
        print(f"{what}  {drafts}; {reads}")


if __name__ == "__main__":
    main()
