"""Aggregate speed of requests decoded together against the same requests one after another, on a streamed model.

    python benchmarks/bench_concurrent.py BUNDLE --memory 1GiB --tier 4 --requests 4 --tokens 32

Both runs use one engine with the same memory plan, so the arena is the same size. Prompts are random tokens, others for
each run; the order alternates; and every prompt is run the other way as well (not timed) to compare its tokens. That
and the rounds of --warm-up let the service find out how many to decode at once; `width` says how many it was.
Greedy text of a model with random weights soon repeats itself, which makes it hit more than text does: give
--temperature 1 there (seeded, so the tokens are still compared).
`total_tok_s` is generated tokens over wall time, prompts included; `decode_tok_s` counts only the stretch in which all
requests decode (give it enough --tokens).
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edge_runtime.engine.job import Event, Job, Outcome, TokenEvent
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.service.config import ServiceConfig
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service


class Request:
    """One request and what came of it."""

    def __init__(self, service: Service, ids: np.ndarray, sampling: SamplingParams) -> None:
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.outcome: Outcome | None = None
        self._done = threading.Event()
        service.submit(Job(ids, sampling, self._take))

    def _take(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self.times.append(perf_counter())
            self.tokens.append(event.delta.token_id)
            return
        self.outcome = event if isinstance(event, Outcome) else None
        self._done.set()

    def wait(self) -> None:
        """Block until it is over."""
        self._done.wait()
        if self.outcome is None:
            raise SystemExit("a request failed; see the log")


def run(service: Service, prompts: list[np.ndarray], sampling: SamplingParams, *, together: bool) -> dict[str, Any]:
    """Run the prompts and return aggregate figures."""
    before = service.stats.read().steps
    started = perf_counter()
    requests = []
    for ids in prompts:
        requests.append(Request(service, ids, sampling))
        if not together:
            requests[-1].wait()
    for request in requests:
        request.wait()
    wall = perf_counter() - started
    decode = sum(r.times[-1] - r.times[0] for r in requests)
    if together:  # the stretch in which all of them decode
        first, last = max(r.times[0] for r in requests), min(r.times[-1] for r in requests)
        count = sum(first < at <= last for r in requests for at in r.times)
        decode_rate = count / (last - first)
    else:
        decode_rate = sum(len(r.times) - 1 for r in requests) / decode
    experts = [r.outcome.experts for r in requests if r.outcome is not None]
    return {
        "tokens": [r.tokens for r in requests],
        "wall_s": round(wall, 3),
        "decode_tok_s": round(decode_rate, 3),
        "total_tok_s": round(sum(len(r.tokens) for r in requests) / wall, 3),
        "hit_rate": round(sum(e["hits"] for e in experts) / max(1, sum(e["lookups"] for e in experts)), 3),
        "width": round(sum(len(r.tokens) for r in requests) / (service.stats.read().steps - before), 2),
    }


def make_prompts(rng: np.random.Generator, vocab_size: int, args: argparse.Namespace) -> list[np.ndarray]:
    """Random tokens; alike: all but the last token are the same in every prompt of a round."""
    prompts = rng.integers(0, vocab_size, (args.requests, args.prompt_tokens)).astype(np.int32)
    if args.alike:
        prompts[:, :-1] = prompts[0, :-1]
    return list(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--expert-memory")
    parser.add_argument("--tier")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=8)
    parser.add_argument("--alike", action="store_true", help="prompts that differ in their last token only")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before the first that counts")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options = {
        "memory": args.memory, "expert_memory": args.expert_memory, "tier": args.tier,
        "context": args.context, "parallel": args.requests,
        "threads": args.threads,
    }  # fmt: skip
    service = Service(ServiceConfig(args.bundle, options=options, verify=False, self_check=False))
    service.start()
    if service.readiness.wait_until_loaded() is not Phase.READY:
        raise SystemExit(service.readiness.reason)
    rng = np.random.default_rng(1)
    sampling = SamplingParams(max_tokens=args.tokens, temperature=args.temperature, seed=1, ignore_eos=True)
    runs: dict[str, list[dict[str, Any]]] = {"alone": [], "together": []}
    for repeat in range(-args.warm_up, args.repeat):
        # each run has prompts of its own: neither KV prefixes nor the other run's experts may help it
        order = ["alone", "together"] if repeat % 2 == 0 else ["together", "alone"]
        checked: list[tuple[list[np.ndarray], list[list[int]]]] = []
        for name in order:
            prompts = make_prompts(rng, service.vocab_size, args)
            figures = run(service, prompts, sampling, together=name == "together")
            checked.append((prompts, figures.pop("tokens")))
            if repeat >= 0:
                runs[name].append(figures)
        for name, (prompts, tokens) in zip(reversed(order), checked, strict=True):  # the other way, not timed
            if run(service, prompts, sampling, together=name == "together")["tokens"] != tokens:
                raise SystemExit("together gave other tokens than alone")
    engine = service.stats.engine
    service.close()
    medians = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]} for name, found in runs.items()
    }
    ratio = {key: round(medians["together"][key] / medians["alone"][key], 3) for key in ("decode_tok_s", "total_tok_s")}
    cache = None if engine is None else engine.cache_bytes
    print(
        json.dumps(
            {"settings": vars(args), "cache_bytes": cache, "median": medians, "ratio": ratio}, default=str, indent=1
        )
    )


if __name__ == "__main__":
    main()
