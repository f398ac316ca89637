"""`hobbit trace`: decode a text token by token and record what the router said, for `hobbit simulate`."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge_runtime.cli.options import add_engine_arguments, repeatable_options
from edge_runtime.cli.texts import progress, read_tokens, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime import Engine
    from edge_runtime.lab.simulator.trace_format import TraceHeader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text to run")
    parser.add_argument("--out", metavar="T", required=True, help="trace file to write")
    parser.add_argument("--tokens", type=int, default=2048, metavar="N", help="record N tokens at most")
    parser.add_argument(
        "--half", action="store_true", help="store logits in 16 bits: half the size, a replay no longer exact"
    )
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from pathlib import Path

    from edge_runtime import Engine
    from edge_runtime.base.sizes import format_size

    out = Path(args.out)
    with Engine.open(args.bundle, self_check=not args.no_self_check, **repeatable_options(args)) as engine:
        ids = read_tokens(engine, args.text, args.tokens)
        passes = record(engine, ids, out, half=args.half)
    size = out.stat().st_size
    if args.json:
        print(json.dumps({"trace": str(out), "tokens": len(ids), "passes": passes, "bytes": size}))
    else:
        print(f"{out}: {len(ids)} tokens in {passes} passes, {format_size(size)}")
    return 0


def record(engine: Engine, ids: Sequence[int], out: Path, *, half: bool = False) -> int:
    """Decode token ids one a step, in windows of the context, and write their trace; return the number of passes."""
    import numpy as np

    from edge_runtime.lab.evaluation import log_softmax
    from edge_runtime.lab.simulator.trace_format import TracePass
    from edge_runtime.lab.simulator.trace_writer import TraceWriter
    from edge_runtime.policy.wrappers.tracing import TracingPolicy

    def confidence(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.exp(log_softmax(rows).max(axis=1)), np.float32)

    parts, passes = engine.parts, 0
    tokens = np.asarray(ids, np.int32)
    prefetcher = parts.decoder.prefetcher
    with (
        TraceWriter(out, _header(engine, half=half), parts.bundle.router_data()) as writer,
        _recording(engine, writer.header.ahead) as take_predictions,
    ):
        tracing = TracingPolicy(parts.active.policy, engine.spec.sparse_layers, take_predictions)
        is_on = prefetcher is not None and prefetcher.is_on
        with engine.deciding_with(tracing):
            for position, rows in progress(windows(engine, tokens, chunk=1), "trace", len(tokens)):
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


@contextmanager
def _recording(engine: Engine, ahead: int) -> Iterator[Callable[[], NDArray[np.float32] | None]]:
    """Keep what the engine's predictor says during a block; the value returns, and forgets, that of the last pass."""
    from edge_runtime.prefetch.recorded import RecordingPredictor

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
    from importlib.metadata import version

    from edge_runtime.lab.simulator.trace_format import TraceHeader
    from edge_runtime.prefetch import parse_prefetch

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
    )
