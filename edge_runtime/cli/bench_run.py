"""One run of `hobbit bench`: a report folder, and a table or the contract's object on stdout."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import engine_options
from edge_runtime.cli.texts import progress_bar

if TYPE_CHECKING:
    from edge_runtime.lab.bench.prompts import Prompts
    from edge_runtime.lab.bench.result import RunConditions
    from edge_runtime.lab.bench.settings import BenchSettings
    from edge_runtime.lab.bench.timeline import RequestTrace


def run_bench(args: argparse.Namespace) -> int:
    """Measure, and write the report."""
    from edge_runtime.lab.bench.folder import default_folder, make_folder
    from edge_runtime.lab.bench.plot import missing

    lacks = None if args.no_png else missing()
    if lacks:
        print(lacks, file=sys.stderr)
    options = engine_options(args)
    settings = _settings(args)
    folder = Path(args.out) if args.out else default_folder(Path(args.bundle))
    prepared = _Prepared(args, options, settings)
    try:
        make_folder(folder)
        result, trace = _measure(args, options, settings, prepared, folder)
    finally:
        prepared.around.power.close()
    _write(result, trace, folder, is_png=not args.no_png and not lacks)
    if args.json:
        print(json.dumps(result))
    else:
        _print_table(result, folder)
    return 0


def _settings(args: argparse.Namespace) -> BenchSettings:
    from edge_runtime.lab.bench.settings import BenchSettings

    return BenchSettings(
        prompt_tokens=args.prompt_tokens,
        gen_tokens=args.gen_tokens,
        repeat=args.repeat,
        warmup=0 if args.cache == "cold" else args.warmup,
        cache=args.cache,
        temperature=args.temperature,
        seed=int(args.seed or 0),
        probe_s=args.probe_seconds,
        sentinel=not args.no_sentinel,
        gate_rise_c=args.gate_rise,
        gate_s=args.gate_seconds,
        idle_s=args.idle_seconds,
        trace_tokens=args.trace_tokens,
    )


class _Prepared:
    """What is known before the engine opens: prompts, where the experts lie, the meter, the surroundings."""

    def __init__(self, args: argparse.Namespace, options: dict[str, Any], settings: BenchSettings) -> None:
        from edge_runtime.config.resolve import EngineOptions
        from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
        from edge_runtime.engine.preparation import plan_only
        from edge_runtime.lab.bench.surroundings import describe, record_extents
        from edge_runtime.telemetry.power import parse_choice

        ready = plan_only(args.bundle, EngineOptions.from_keywords(options))
        settings.check_context(ready.config.context)
        self.block_bytes, self.depth = ready.config.read_chunk, ready.config.io_threads
        self.extents = record_extents(ready.bundle, ready.config.tier)
        self.prompts, said = _prompts(args, settings, ready.tokenizer, ready.bundle.manifest.model.vocab_size)
        self.around: RunConditions = describe(ready.bundle, ready.isa, said, shlex.join(["hobbit", *args.words]))
        choice = parse_choice(ready.config.power_meter)
        self.root, self.around.power = choice.root, _power(ready.config.power_meter, required=args.power)

    def probe(self, seconds: float, seed: int) -> None:
        """Probe the drive where experts lie; a drive that cannot be probed is a remark, not a failure."""
        from edge_runtime.base.errors import DeviceError
        from edge_runtime.telemetry.drive_probe import probe_drive

        if seconds <= 0:
            self.around.probe_error = self.around.probe_error or "left out by --probe-seconds 0"
            return
        try:
            self.around.probes.append(
                probe_drive(self.extents, block_bytes=self.block_bytes, depth=self.depth, seconds=seconds, seed=seed)
            )
        except DeviceError as err:
            self.around.probe_error = str(err)


def _power(meter: str, *, required: bool) -> Any:
    from edge_runtime.base.errors import DeviceError
    from edge_runtime.lab.bench.power_log import PowerLog
    from edge_runtime.telemetry.power import parse_choice

    power = PowerLog.start(parse_choice(meter))
    if required and power.sampler is None:
        why = " ".join(power.reasons.values()) or "--power-meter none was given."
        raise DeviceError(f"power: no power meter here, so energy cannot be measured: {why} Leave out --power.")
    return power


def _prompts(
    args: argparse.Namespace, settings: BenchSettings, tokenizer: Any, vocab_size: int
) -> tuple[Prompts, dict[str, Any]]:
    from edge_runtime.cli.texts import read_text_tokens
    from edge_runtime.lab.bench.prompts import num_distinct, random_prompts, text_prompts

    requests = settings.warmup + settings.repeat
    if args.prompt_file is None:
        said = {"source": f"random tokens, seed {settings.seed}", "distinct": requests, "requests": requests}
        return random_prompts(vocab_size, settings.prompt_tokens, settings.seed), said
    ids = read_text_tokens(tokenizer, args.prompt_file, settings.prompt_tokens * (requests + 1), "prompt-file")
    distinct = num_distinct(len(ids), settings.prompt_tokens, requests)
    said = {"source": f"text {Path(args.prompt_file).name}", "distinct": distinct, "requests": requests}
    return text_prompts(ids, settings.prompt_tokens, args.prompt_file), said


def _measure(
    args: argparse.Namespace,
    options: dict[str, Any],
    settings: BenchSettings,
    prepared: _Prepared,
    folder: Path,
) -> tuple[dict[str, Any], RequestTrace | None]:
    """Probe, run, probe; what was measured so far is on the drive after every request."""
    from edge_runtime import Engine
    from edge_runtime.lab.bench.folder import write_json
    from edge_runtime.lab.bench.result import result_json
    from edge_runtime.lab.bench.session import Bench, BenchSession
    from edge_runtime.lab.bench.timeline import Tracer

    def open_engine() -> Engine:
        # the meter is the benchmark's own: it is there before the engine
        return Engine.open(args.bundle, self_check=not args.no_self_check, **options | {"power_meter": "none"})

    prepared.around.power.measure_idle(settings.idle_s)
    prepared.probe(settings.probe_s, seed=1)
    session, tracer = BenchSession(), Tracer(prepared.prompts, settings)
    traced = tracer.run if settings.trace_tokens else None
    bench = Bench(open_engine, prepared.prompts, settings, Path(args.bundle), root=prepared.root, traced=traced)
    with progress_bar("requests", settings.num_requests) as advance:
        for _ in bench.run(session):
            advance(1)
            if session.requests and len(session.requests) < settings.repeat:
                write_json(folder, result_json(session, settings, prepared.around, is_complete=False))
    prepared.probe(settings.probe_s, seed=2)
    result = result_json(session, settings, prepared.around)
    result["bench"]["recorded"] = tracer.trace and tracer.trace.to_json()
    return result, tracer.trace


def _write(result: dict[str, Any], trace: RequestTrace | None, folder: Path, *, is_png: bool) -> None:
    from edge_runtime.lab.bench.folder import HTML_NAME, SUMMARY_NAME, TRACE_NAME, write_json, write_whole
    from edge_runtime.lab.bench.page import page
    from edge_runtime.lab.bench.plot import pngs
    from edge_runtime.lab.bench.summary import summary_line

    write_json(folder, result)
    write_whole(folder / HTML_NAME, page(result, trace).encode())
    write_whole(folder / SUMMARY_NAME, (summary_line(result) + "\n").encode())
    if trace is not None:
        write_whole(folder / TRACE_NAME, json.dumps(trace.to_chrome()).encode())
    if is_png:
        for name, image in pngs(result, trace):
            write_whole(folder / name, image)


def _print_table(result: dict[str, Any], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from edge_runtime.lab.bench.summary import summary_line
    from edge_runtime.lab.bench.table import rows

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for style in ("bold", "", "dim"):
        table.add_column(style=style)
    for row in rows(result):
        table.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for text in result["bench"]["warnings"]:
        console.print(f"warning: {text}", soft_wrap=True, markup=False)
    console.print(summary_line(result), soft_wrap=True, markup=False)
    console.print(f"report: {folder}", soft_wrap=True)
