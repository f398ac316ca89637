"""Records what the router says while an engine decodes a text: the traces that are replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.engine.api import Engine
from edge_runtime.lab.evaluation import log_softmax
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.lab.simulator.trace_writer import TraceWriter
from edge_runtime.policy.wrappers.tracing import TracingPolicy
from edge_runtime.prefetch import parse_prefetch
from edge_runtime.prefetch.recorded import RecordingPredictor

Step = tuple[int, F32]
Watch = Callable[[Iterable[Step]], Iterable[Step]]


def _unwatched(steps: Iterable[Step]) -> Iterable[Step]:
    return steps


def record(
    engine: Engine, texts: Sequence[Sequence[int]], out: Path, *, half: bool = False, watch: Watch = _unwatched
) -> int:
    """Decode texts one token a step, in windows of the context, and write their trace; return the number of passes.

    Args:
        engine: runs them.
        texts: token ids of each; each begins with an empty KV cache.
        out: the trace.
        half: store logits in 16 bits.
        watch: passes on what it is given, (position, logits) of each step, for a progress bar.
    """

    def confidence(rows: F32) -> F32:
        return np.asarray(np.exp(log_softmax(rows).max(axis=1)), np.float32)

    parts, passes = engine.parts, 0
    prefetcher = parts.decoder.prefetcher
    with (
        TraceWriter(out, _header(engine, half=half), parts.bundle.router_data()) as writer,
        _recording(engine, writer.header.ahead) as take_predictions,
    ):
        tracing = TracingPolicy(parts.active.policy, engine.spec.sparse_layers, take_predictions)
        is_on = prefetcher is not None and prefetcher.is_on
        with engine.deciding_with(tracing):
            for tokens, position, rows in _steps(engine, texts, watch):
                chunk = tokens[position : position + len(rows)]
                starts_text = position % parts.config.context == 0
                for seen in tracing.take():
                    rejected = seen.output is not None
                    sure = confidence(rows if seen.output is None else seen.output)
                    writer.add(TracePass(chunk, seen.logits, sure, starts_text, seen.extra, rejected, is_on))
                    starts_text = False
                    passes += 1
                is_on = prefetcher is not None and prefetcher.is_on
    return passes


def _steps(engine: Engine, texts: Sequence[Sequence[int]], watch: Watch) -> Iterator[tuple[I32, int, F32]]:
    """Yield each text's tokens with (position, logits) of each step."""
    for ids in texts:
        tokens = np.asarray(ids, np.int32)
        for position, rows in watch(engine.logit_windows(tokens, chunk=1)):
            yield tokens, position, rows


@contextmanager
def _recording(engine: Engine, ahead: int) -> Iterator[Callable[[], F32 | None]]:
    """Keep what the engine's predictor says during a block; the value returns, and forgets, that of the last pass."""
    prefetcher = engine.parts.decoder.prefetcher
    if prefetcher is None:
        yield lambda: None
        return
    spec, inner = engine.spec, prefetcher.predictor
    prefetcher.predictor = recording = RecordingPredictor(inner, spec.sparse_layers, spec.num_experts, ahead)
    try:
        yield recording.take
    finally:
        prefetcher.predictor = inner


def _header(engine: Engine, *, half: bool) -> TraceHeader:
    manifest = engine.parts.bundle.manifest
    prefetcher = engine.parts.decoder.prefetcher
    predicts_logits = prefetcher is None or prefetcher.predictor.predicts_logits
    return TraceHeader(
        model=manifest.model,
        num_segments=manifest.experts.num_segments,
        tiers=list(manifest.experts.tiers),
        tier=engine.parts.config.tier,
        logits="float16" if half else "float32",
        bundle_id=manifest.bundle_id,
        policy=engine.parts.active.text,
        created_by=f"hobbit {version('hobbit-edge')}",
        ahead=parse_prefetch(engine.parts.active.prefetch)[1].get("depth", 1) if prefetcher is not None else 0,
        predicted="logits" if predicts_logits else "shares",
        whole_slots=not engine.parts.cache.space.gives_back_pages,
    )
