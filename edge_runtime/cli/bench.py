"""`hobbit bench`: latency of repeated requests; a report folder, and a table or the contract's object on stdout."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import add_engine_arguments, engine_options
from edge_runtime.cli.texts import progress_bar

if TYPE_CHECKING:
    from edge_runtime.lab.bench.prompts import Prompts
    from edge_runtime.lab.bench.result import Surroundings
    from edge_runtime.lab.bench.settings import BenchSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    group = parser.add_argument_group("what is measured")
    group.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help="tokens of each prompt")
    group.add_argument("--gen-tokens", type=int, default=128, metavar="N", help="tokens generated after each")
    group.add_argument("--repeat", type=int, default=5, metavar="R", help="measured requests")
    group.add_argument("--warmup", type=int, default=1, metavar="N", help="requests before them, not measured")
    group.add_argument(
        "--cache", choices=("warm", "cold"), default="warm",
        help="warm: one engine; cold: a new engine for each request, bundle dropped from the page cache",
    )  # fmt: skip
    group.add_argument("--prompt-file", metavar="FILE", help="prompts from a UTF-8 text, not random tokens")
    group.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling; 0 is greedy")
    group.add_argument(
        "--probe-seconds", type=float, default=1.0, metavar="S", help="seconds of a drive probe; 0: none"
    )
    group.add_argument("--power", action="store_true", help="measure energy as well (no meter in this version)")
    group = parser.add_argument_group("report")
    group.add_argument("--out", metavar="DIR", help="folder to write (default: hobbit-bench-BUNDLE-TIME)")
    group.add_argument(
        "--no-png", action="store_true", help="leave out report.png; it is left out without matplotlib, too"
    )
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.errors import DeviceError
    from edge_runtime.lab.bench.folder import default_folder, make_folder
    from edge_runtime.lab.bench.plot import missing

    if args.power:
        raise DeviceError("power: this version has no power meter, so energy cannot be measured. Leave out --power.")
    lacks = None if args.no_png else missing()
    if lacks:
        print(lacks, file=sys.stderr)
    options = engine_options(args)
    settings = _settings(args)
    folder = Path(args.out) if args.out else default_folder(Path(args.bundle))
    prepared = _Prepared(args, options, settings)
    make_folder(folder)
    result = _measure(args, options, settings, prepared, folder)
    _write(result, folder, is_png=not args.no_png and not lacks)
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
    )


class _Prepared:
    """What is settled before the engine opens: prompts, where the experts lie, the surroundings."""

    def __init__(self, args: argparse.Namespace, options: dict[str, Any], settings: BenchSettings) -> None:
        from edge_runtime.config.resolve import EngineOptions
        from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
        from edge_runtime.engine.preparation import prepare
        from edge_runtime.lab.bench.surroundings import describe, record_extents

        ready = prepare(args.bundle, EngineOptions.from_keywords(options))
        settings.check_context(ready.config.context)
        self.block_bytes, self.depth = ready.config.read_chunk, ready.config.io_threads
        self.extents = record_extents(ready.bundle, ready.config.tier)
        self.prompts, said = _prompts(args, settings, ready.tokenizer, ready.bundle.manifest.model.vocab_size)
        self.around: Surroundings = describe(ready.bundle, ready.backend.isa, said, shlex.join(["hobbit", *args.words]))

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


def _prompts(
    args: argparse.Namespace, settings: BenchSettings, tokenizer: Any, vocab_size: int
) -> tuple[Prompts, dict[str, Any]]:
    from edge_runtime.cli.texts import read_text_tokens
    from edge_runtime.lab.bench.prompts import num_distinct, random_prompts, text_prompts

    requests = settings.warmup + settings.repeat
    if args.prompt_file is None:
        said = {"source": f"random tokens, seed {settings.seed}", "distinct": requests, "requests": requests}
        return random_prompts(vocab_size, settings.prompt_tokens, settings.seed), said
    ids = read_text_tokens(tokenizer, args.prompt_file, settings.prompt_tokens * requests, "prompt-file")
    distinct = num_distinct(len(ids), settings.prompt_tokens, requests)
    said = {"source": f"text {Path(args.prompt_file).name}", "distinct": distinct, "requests": requests}
    return text_prompts(ids, settings.prompt_tokens, args.prompt_file), said


def _measure(
    args: argparse.Namespace,
    options: dict[str, Any],
    settings: BenchSettings,
    prepared: _Prepared,
    folder: Path,
) -> dict[str, Any]:
    """Probe, run, probe; what was measured so far is on the drive after every request."""
    from edge_runtime import Engine
    from edge_runtime.lab.bench.folder import write_json
    from edge_runtime.lab.bench.result import result_json
    from edge_runtime.lab.bench.session import Session, run_session

    def open_engine() -> Engine:
        return Engine.open(args.bundle, self_check=not args.no_self_check, **options)

    prepared.probe(settings.probe_s, seed=1)
    session = Session()
    total = settings.warmup + settings.repeat
    with progress_bar("requests", total) as advance:
        for _ in run_session(open_engine, prepared.prompts, settings, Path(args.bundle), session):
            advance(1)
            if session.requests and len(session.requests) < settings.repeat:
                write_json(folder, result_json(session, settings, prepared.around, is_complete=False))
    prepared.probe(settings.probe_s, seed=2)
    return result_json(session, settings, prepared.around)


def _write(result: dict[str, Any], folder: Path, *, is_png: bool) -> None:
    from edge_runtime.lab.bench.folder import HTML_NAME, PNG_NAME, write_json, write_whole
    from edge_runtime.lab.bench.page import page
    from edge_runtime.lab.bench.plot import png

    write_json(folder, result)
    write_whole(folder / HTML_NAME, page(result).encode())
    if is_png:
        write_whole(folder / PNG_NAME, png(result))


def _print_table(result: dict[str, Any], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from edge_runtime.lab.bench.table import rows

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for style in ("bold", "", "dim"):
        table.add_column(style=style)
    for row in rows(result):
        table.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(f"report: {folder}", soft_wrap=True)
