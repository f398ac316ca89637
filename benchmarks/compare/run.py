"""Measures the comparison cell by cell; what is already in the results file is not measured again."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.compare import results
from benchmarks.compare.chosen_isa import check as check_isa
from benchmarks.compare.figures import read_per_token
from benchmarks.compare.group import MemoryGroup
from benchmarks.compare.kinds import KINDS, Peer, open_peers
from benchmarks.compare.machine import Ceilings, drop_caches, identity, read_ahead
from benchmarks.compare.peer import PeerError
from benchmarks.compare.results import Again
from benchmarks.compare.thresholds import hobbit_policy
from benchmarks.compare.workload import (
    CONTEXT,
    HOBBIT,
    MEASURED_STEPS,
    OURS,
    REGIMES,
    RESIDENT,
    THREADS,
    WARM_STEPS,
    Cell,
    Model,
    cap_bytes,
    cells_of_round,
    kept_modes,
    rate,
    tokens_of,
)
from benchmarks.source import commit
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.lab.bench.surroundings import describe

TIER = 4
PREFETCH = "lookahead:depth=1"
"""What lossless does by itself; HOBBIT's prefetch level is part of the method."""
MORE_TO_DO = 75
"""Exit code when --cells stopped the run before everything was measured."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.compare run", description=__doc__)
    found.add_argument(
        "--peer", action="append", required=True, metavar="KIND=PATH",
        help=f"folder with a peer's programs, or an adapter for 'command'; repeatable; kinds: {', '.join(KINDS)}",
    )  # fmt: skip
    found.add_argument(
        "--model", nargs=4, action="append", required=True, metavar=("NAME", "CHECKPOINT", "BUNDLE", "GGUF"),
        help="checkpoint with stream.json, its bundle, its Q4_0 file; repeatable",
    )  # fmt: skip
    found.add_argument("--regime", nargs="+", choices=REGIMES, default=list(REGIMES), help="default: all")
    found.add_argument("--hobbit-at", nargs="*", choices=REGIMES[1:], default=["50", "25"], help="caps (50 25)")
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--mode", nargs="+", metavar="NAME", help="peers' modes (default: all they have)")
    found.add_argument(
        "--cells", type=int, help=f"stop after so many cells, with exit code {MORE_TO_DO} if more are left"
    )
    found.add_argument("--retry-failed", action="store_true", help="measure failed cells again")
    found.add_argument(
        "--anew", choices=("ours", "all"),
        help="measure again what was measured with another commit: our cells, or every side's",
    )  # fmt: skip
    found.add_argument(
        "--isa", help="instruction set of ours, if not the best; name peers that are built for the same one"
    )
    found.add_argument("--memory", default="auto", help="our --memory; auto takes the cgroup's cap")
    found.add_argument("--io-threads", type=int, default=8, help="ours, and the depth of the drive probe")
    found.add_argument("--block", type=int, default=1 << 20, metavar="BYTES", help="block size of the drive probe")
    found.add_argument("--group-parent", type=Path, help="cgroup to make groups in")
    found.add_argument("--out", type=Path, default=Path("benchmarks/results/compare.jsonl"))
    return found


def load_model(name: str, checkpoint: str, bundle: str, gguf: str) -> Model:
    """Check a model's three parts.

    Raises:
        SystemExit: one is missing.
    """
    stream, text, file = Path(checkpoint) / "stream.json", Path(checkpoint) / "stream.txt", Path(gguf)
    for path in (stream, text, Path(bundle) / "manifest.json", file):
        if not path.is_file():
            raise SystemExit(f"model {name}: {path}: expected a file, found none.")
    return Model(name, tuple(json.loads(stream.read_text())), text, Path(bundle), file, file.stat().st_size)


def measure_ours(model: Model, cell: Cell, policy: str, args: argparse.Namespace, group: MemoryGroup) -> dict[str, Any]:
    """Run our side of a cell in its own process.

    Raises:
        PeerError: it failed; a cell of ours is recorded as failed like one of the peer's.
    """
    tokens = tokens_of(model.stream, cell.regime, cell.round)
    options = {
        "memory": args.memory, "tier": str(TIER), "policy": policy, "threads": THREADS, "context": CONTEXT,
        "io_threads": args.io_threads, "prefetch": PREFETCH,
    }  # fmt: skip
    job = vars(tokens) | {
        "bundle": str(model.bundle.resolve()), "options": options, "warm_steps": WARM_STEPS,
        "measured_steps": MEASURED_STEPS, "isa": args.isa,
    }  # fmt: skip
    argv = group.command([sys.executable, "-m", "benchmarks.compare.ours"])
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, input=json.dumps(job), capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise PeerError("does not fit: killed for exceeding the cap" if group.oom_kills else reason[0][:500])
    return dict(json.loads(done.stdout))


def policy_of(model: Model, entries: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the model's HOBBIT policy: the thresholds of an earlier run, else its calibration's, else measured now."""
    for entry in entries:
        if entry.get("thresholds_of") == model.name:
            return str(entry["policy"])
    print(f"... {model.name}: HOBBIT's thresholds", flush=True)
    policy, source = hobbit_policy(model.bundle, model.text, TIER)
    results.append(args.out, {"thresholds_of": model.name, "policy": policy, "source": source})
    return policy


class Runner:
    """Measures one cell after another.

    Args:
        args: of `parser`.
        peers: the others.
        models: by name.
        hobbit: the HOBBIT policy of each model, with its thresholds.
        machine: what this one is.
        source: the commit that is measured.
    """

    def __init__(
        self, args: argparse.Namespace, peers: Sequence[Peer], models: dict[str, Model], hobbit: dict[str, str],
        machine: dict[str, Any], source: str | None,
    ) -> None:  # fmt: skip
        self.args, self.models, self.hobbit, self.machine, self.source = args, models, hobbit, machine, source
        self.peers = {peer.name: peer for peer in peers}
        self.ceilings = Ceilings()

    def run(self, cell: Cell) -> dict[str, Any]:
        """Measure a cell; a failure is part of its result."""
        model, args = self.models[cell.model], self.args
        cap = cap_bytes(model, cell.regime)
        policy = self.hobbit[cell.model] if cell.variant == HOBBIT else cell.variant
        drive = self.ceilings.drive(model.bundle, TIER, block_bytes=args.block, depth=args.io_threads)
        fio = self.ceilings.fio_gbps(model.bundle, TIER, block_bytes=args.block, depth=args.io_threads)
        entry: dict[str, Any] = {
            "machine": self.machine, "commit": self.source, "model": cell.model,
            "regime": cell.regime, "round": cell.round, "side": cell.side, "variant": cell.variant,
            "cap_bytes": cap, "gguf_bytes": model.gguf_bytes,
            "when": datetime.now(timezone.utc).isoformat("T", "seconds"),
            "drive_gbps": drive.gbps, "fio_gbps": fio, "bus_gbps": self.ceilings.bus_gbps(),
        }  # fmt: skip
        with MemoryGroup(cap, args.group_parent) as group:
            try:
                drop_caches()
                if cell.side == OURS:
                    entry["measured"] = measure_ours(model, cell, policy, args, group)
                else:
                    peer = self.peers[cell.side]
                    entry |= {"version": peer.version, "build": peer.build}
                    entry["measured"] = self._measure_peer(model, cell, group)
            except (PeerError, OSError) as err:
                entry["error"] = str(err)
            entry["peak_bytes"], entry["oom_kills"] = group.peak_bytes, group.oom_kills
        return entry

    def _measure_peer(self, model: Model, cell: Cell, group: MemoryGroup) -> dict[str, Any]:
        peer = self.peers[cell.side]
        mode = next(mode for mode in peer.modes(cell.regime) if mode.name == cell.variant)
        with read_ahead(model.gguf, mode.read_ahead_kib):
            tokens = tokens_of(model.stream, cell.regime, cell.round)
            return dict(peer.measure(model, mode, cell.regime, tokens, group))


def pending(
    args: argparse.Namespace, peers: Sequence[Peer], models: Sequence[Model], machine: str,
    entries: list[dict[str, Any]], again: Again,
) -> Iterator[Cell]:  # fmt: skip
    """Yield cells not yet measured, round by round; later rounds only have the modes that did well in the first."""
    finished = results.done(entries, again)
    for number in range(args.rounds):
        for model in models:
            for regime in args.regime:
                first = results.of_round(entries, model.name, regime, 0, machine) if number else []
                modes = {
                    peer.name: kept_modes(
                        peer.name, [m for m in peer.modes(regime) if not args.mode or m.name in args.mode], first
                    )
                    for peer in peers
                }
                hobbit = regime in args.hobbit_at
                cells = cells_of_round(model.name, regime, number, modes, machine, hobbit=hobbit)
                yield from (cell for cell in cells if cell not in finished)


def check_modes(args: argparse.Namespace, peers: Sequence[Peer]) -> None:
    """Refuse names of modes that no peer has in any of the regimes.

    Raises:
        SystemExit: there is one.
    """
    known = {mode.name for peer in peers for regime in args.regime for mode in peer.modes(regime)}
    unknown = sorted({*(args.mode or [])} - known)
    if unknown:
        raise SystemExit(f"--mode {' '.join(unknown)}: expected some of {', '.join(sorted(known))}.")


def describe_run(
    args: argparse.Namespace, peers: Sequence[Peer], models: Sequence[Model], machine: dict[str, Any]
) -> dict[str, Any]:
    """Return what all cells of a run share."""
    around = describe(Bundle.open(models[0].bundle), "", {}, "")
    return {
        "machine": around.hardware | {name: machine[name] for name in ("isa", "best_isa") if name in machine},
        "versions": {k: v for k, v in around.versions.items() if v},
        "peers": {peer.name: peer.version for peer in peers},
        "settings": {
            "threads": THREADS, "tier": TIER, "context": CONTEXT, "memory": args.memory, "io_threads": args.io_threads,
            "probe_block_bytes": args.block,
        },
    }  # fmt: skip


def line(cell: Cell, entry: dict[str, Any], number: int, seconds: float) -> str:
    """Return the progress line of a finished cell."""
    where = "resident" if cell.regime == RESIDENT else f"{cell.regime} %"
    head = f"[{number}] {cell.model} {where} round {cell.round} {cell.side} {cell.variant}:"
    if "error" in entry:
        return f"{head} FAILED: {entry['error']} ({seconds:.0f} s)"
    found = entry["measured"]
    steady = f"{rate(found['prefill']):.1f}" if "prefill" in found else "-"
    return (
        f"{head} decode {rate(found['decode']):.2f} tok/s, prefill {steady} "
        f"(cold {rate(found['prefill_cold']):.1f}) tok/s, "
        f"{(read_per_token(entry) or 0) / 1e6:.1f} MB read a token, "
        f"drive {entry['drive_gbps']:.2f} GB/s ({seconds:.0f} s)"
    )


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that read-ahead and cgroup are put back
    peers = open_peers(args.peer)
    check_modes(args, peers)
    models = [load_model(*each) for each in args.model]
    entries = results.read(args.out)
    if args.isa is not None:
        check_isa(args.isa)
    machine, source = identity(models[0].bundle, args.isa), commit()
    shared = describe_run(args, peers, models, machine)
    if not any(all(e.get(k) == v for k, v in shared.items()) for e in entries):
        results.append(args.out, shared)
    hobbit = {model.name: policy_of(model, entries, args) for model in models} if args.hobbit_at else {}
    runner = Runner(args, peers, {model.name: model for model in models}, hobbit, machine, source)
    again = Again(len(results.read(args.out)) if args.retry_failed else 0, args.anew, source)
    measured = 0
    while True:
        entries = results.read(args.out)
        cells = list(pending(args, peers, models, results.label(machine), entries, again))
        if not cells:
            print(f"everything is measured: {args.out}{results.of_other_commits(entries, machine, source)}")
            return 0
        if args.cells is not None and measured >= args.cells:
            print(f"at least {len(cells)} cells are left: {args.out}")
            return MORE_TO_DO
        started = time.monotonic()
        print(f"... {len(cells)} or more to do; now {' '.join(map(str, astuple(cells[0])))}", flush=True)
        entry = runner.run(cells[0])
        results.append(args.out, entry)
        measured += 1
        print(line(cells[0], entry, measured, time.monotonic() - started), flush=True)
