"""One job in a process of its own: open an engine, measure it, record it or compare it, and say so in JSON.

Each candidate gets a process, so that none finds the memory of another, and one that is killed is an answer too.
`python -m edge_runtime.lab.tune.child < job.json` with `{"kind": ..., "bundle": ..., "options": {...}, ...}`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edge_runtime.base.errors import HobbitError
from edge_runtime.base.strict import from_mapping
from edge_runtime.engine.api import Engine
from edge_runtime.lab.evaluation import log_softmax
from edge_runtime.lab.probes.base import Subject
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.tune import read_times, speeds
from edge_runtime.lab.tune.measurement import Measurement, Workload
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.rehearsing import rehearse
from edge_runtime.lab.tune.resident_tokens import resident_token_ms
from edge_runtime.lab.tune.workload import sampling
from edge_runtime.telemetry.process import peak_rss_bytes
from edge_runtime.telemetry.samples import phases

_RESIDENT_S = 0.5


class _Totals:
    """What decoding took, added up over requests."""

    def __init__(self) -> None:
        self.phase_ns: dict[str, int] = {}
        self.tokens = self.bytes_read = self.busy_ns = self.lookups = self.hits = 0

    def add(self, engine: Engine, before: tuple[dict[str, int], Any], wall_ns: int, tokens: int) -> None:
        spans, counters = before
        now, experts = engine.parts.decoder.spans.ns, engine.parts.cache.counters.since(counters)
        own = {name: ns - spans.get(name, 0) for name, ns in now.items()}
        for name, ns in phases(wall_ns, own, experts.stall_ns).items():
            self.phase_ns[name] = self.phase_ns.get(name, 0) + ns
        self.tokens += tokens
        self.bytes_read += experts.bytes_read
        self.busy_ns += experts.read_busy_ns
        self.lookups += experts.lookups
        self.hits += experts.hits


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a workload; return a `Measurement` as plain data, and the tokens of each answer, warming up included.

    With `resident` in the job a token that reads nothing is timed behind it.
    """
    workload = from_mapping(Workload, job["workload"], "workload")
    rates: list[float] = []
    ttft_ms: list[float] = []
    gaps_ms: list[float] = []
    answers: list[list[int]] = []
    warming_up: list[list[int]] = []
    totals = _Totals()
    with Engine.open(job["bundle"], self_check=False, **job["options"]) as engine:
        for number, prompt in enumerate(workload.prompts):
            if (
                number == workload.warmup
            ):  # memory is taken in the background; where little is read it outlasts warming up
                engine.parts.cache.touch(wait_s=None)
            answer, first_ms, gaps = _request(engine, workload, number, totals, prompt)
            if number < workload.warmup:
                totals = _Totals()
                warming_up.append(answer)
                continue
            answers.append(answer)
            ttft_ms.append(first_ms)
            gaps_ms += gaps
            rates.append(1000 * len(gaps) / sum(gaps))
        resident, prompt = None, workload.prompts[-1]
        if job.get("resident"):  # in this process: another one's memory may be slower or faster
            resident = resident_token_ms(engine, prompt[-1], len(prompt) + workload.gen_tokens // 2, _RESIDENT_S)
        kld = None
        if job.get("reference"):
            kld = divergence(engine, job["reference_tokens"], Path(job["reference"]))
    found = Measurement(
        tok_s=rates,
        ttft_ms=ttft_ms,
        p99_ms=float(np.percentile(gaps_ms, 99)),
        digest=hashlib.sha256(json.dumps(answers).encode()).hexdigest(),
        phase_ms={name: ns / 1e6 / totals.tokens for name, ns in totals.phase_ns.items()},
        bytes_per_token=totals.bytes_read / totals.tokens,
        read_busy_ms=totals.busy_ns / 1e6 / totals.tokens,
        hit_rate=totals.hits / totals.lookups if totals.lookups else None,
        resident_ms=resident,
        kld=kld,
        peak_rss_bytes=peak_rss_bytes(),
    )
    return found.to_json() | {"answers": [*warming_up, *answers]}


def _request(
    engine: Engine, workload: Workload, number: int, totals: _Totals, prompt: list[int]
) -> tuple[list[int], float, list[float]]:
    """Return an answer's tokens, milliseconds to the first one, and those between the others."""
    stream = engine.stream(prompt, sampling(workload, number))
    started = perf_counter_ns()
    next(stream)
    first = last = perf_counter_ns()
    before = dict(engine.parts.decoder.spans.ns), engine.parts.cache.counters
    gaps: list[float] = []
    for _ in stream:
        now = perf_counter_ns()
        gaps.append((now - last) / 1e6)
        last = now
    totals.add(engine, before, last - first, len(gaps))
    return engine.last_report().token_ids, (first - started) / 1e6, gaps


def write_reference(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write the logits that candidates are compared with: what the present settings say of some tokens."""
    with Engine.open(job["bundle"], self_check=False, **job["options"]) as engine:
        ids = np.asarray(job["reference_tokens"], np.int32)
        np.save(job["reference"], engine.logits(ids, chunk=1))
        return {"tokens": len(ids)}


def divergence(engine: Engine, tokens: list[int], reference: Path) -> float:
    """Return the mean KL divergence from the reference, one token a pass, in nats a token."""
    expected = np.load(reference, mmap_mode="r", allow_pickle=False)
    total = 0.0
    for position, rows in engine.logit_chunks(np.asarray(tokens, np.int32), chunk=1):
        p, q = log_softmax(np.asarray(expected[position : position + len(rows)])), log_softmax(rows)
        total += float((np.exp(p) * (p - q)).sum())
    return max(total / len(tokens), 0.0)


def run_rehearsal(job: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a candidate reads that changes what is said, and with a reference what it loses."""
    workload = from_mapping(Workload, job["workload"], "workload")
    with Engine.open(job["bundle"], self_check=False, **{**job["options"], "prefetch": "off"}) as engine:
        reads, kld = rehearse(engine, workload), None
        if job.get("reference"):
            kld = divergence(engine, job["reference_tokens"], Path(job["reference"]))
        return Rehearsal(reads, kld).to_json()


def record_trace(job: Mapping[str, Any]) -> dict[str, Any]:
    """Record what the router says of some texts."""
    with Engine.open(job["bundle"], self_check=False, **{**job["options"], "prefetch": "off"}) as engine:
        return {"passes": record(engine, job["texts"], Path(job["trace"]))}


def probe_speed(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a token takes that reads nothing, see `speeds.measure`."""
    workload = from_mapping(Workload, job["workload"], "workload")
    with Engine.open(job["bundle"], self_check=False, **{**job["options"], "prefetch": "off"}) as engine:
        engine.parts.cache.touch(wait_s=None)
        prompt = workload.prompts[-1]
        return speeds.measure(engine, prompt[-1], len(prompt) + workload.gen_tokens // 2)


def probe_reads(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long reads take at some points, see `read_times.measure`."""
    subject = Subject(Path(job["bundle"]), job["options"])
    points = [(int(part_bytes), int(depth)) for part_bytes, depth in job["points"]]
    bundle, tier = subject.planned.bundle, subject.planned.config.tier
    return {"samples": read_times.measure(bundle, tier, points)}


JOBS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "measure": measure,
    "reference": write_reference,
    "rehearse": run_rehearsal,
    "trace": record_trace,
    "speed": probe_speed,
    "reads": probe_reads,
}


def main() -> int:
    """Do the job on stdin; what it raises is told as text."""
    job = json.load(sys.stdin)
    try:
        found = JOBS[job["kind"]](job)
    except HobbitError as err:
        sys.stdout.write(json.dumps({"failed": str(err)}) + "\n")
        return err.exit_code
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
