"""How fast does an export go, next to what the machine reads and writes, and where does the time go?

    python -m benchmarks.bench_export --folder DIR [--layers 2 --experts 64] [--threads 1 2] [--rounds 3] [--json]
    python -m benchmarks.bench_export --encoder [--isa avx512vnni avx2] [--threads 1 2] [--rounds 3] [--json]

Three figures in MB/s of bfloat16 source, medians over interleaved rounds: the encoder alone on rows in memory; a plain
copy of the same bytes (checkpoint read, as many bytes as the bundle has written, synced); the whole export of a
generated checkpoint. The checkpoint leaves the page cache before each read. DIR needs room for it and two bundles.
--encoder: the first alone, with each instruction set in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.source import commit
from edge_runtime.backends.cpu.kernels import ExpertEncoder, available_isas
from edge_runtime.telemetry.hardware import describe_hardware

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 768, 16384
BLOCK_BYTES = 8 << 20


def generated(folder: Path, layers: int, experts: int) -> Path:
    """Write a random qwen3_moe checkpoint with the matrices of Qwen3-30B-A3B's experts."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from synthetic import qwen3_config, write_qwen3

    shape = {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "num_experts_per_tok": 8}
    config = qwen3_config(HIDDEN, INTERMEDIATE, experts, layers, vocab_size=VOCABULARY, **shape)
    return write_qwen3(folder / "checkpoint", config)


def encoder_speed(isa: str, threads: int, tiers: int, seconds: float = 3.0) -> float:
    """Encode random experts for a while and return MB/s."""
    rng = np.random.default_rng(0)
    shapes = [(INTERMEDIATE, HIDDEN)] * 2 + [(HIDDEN, INTERMEDIATE)]
    rows = [((rng.standard_t(5, s) * 0.02).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for s in shapes]
    encoder = ExpertEncoder(0, 0, HIDDEN, INTERMEDIATE, tiers // 2, False, threads, isa)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        encoder.reset(0, 0)
        for matrix, values in enumerate(rows):
            encoder.add_rows(matrix, 0, values, "bf16")
            done += values.nbytes
        encoder.finish()
    return done / (time.perf_counter() - begin) / 1e6


def encoders(args: argparse.Namespace) -> None:
    """Measure the encoder with each instruction set in turn, and print it."""
    found: dict[tuple[str, int], list[float]] = {(isa, n): [] for isa in args.isa for n in args.threads}
    for number in range(args.rounds):
        order = [*found]
        for isa, threads in order if number % 2 == 0 else reversed(order):
            found[isa, threads].append(round(encoder_speed(isa, threads, args.tiers), 1))
    if args.json:
        rows = [{"isa": isa, "threads": n, "mb_s": speeds} for (isa, n), speeds in found.items()]
        cpu = describe_hardware(Path())["cpu"]
        print(json.dumps({"cpu": cpu, "tiers": args.tiers, "commit": commit(), "encoder": rows}))
        return
    for (isa, threads), speeds in found.items():
        print(f"{isa:12} {threads} threads {statistics.median(speeds):7.1f}  ({min(speeds):.1f} to {max(speeds):.1f})")


def forget(checkpoint: Path) -> None:
    """Drop a checkpoint from the page cache."""
    os.sync()
    for path in checkpoint.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copy_speed(checkpoint: Path, target: Path, bundle_bytes: int) -> float:
    """Read the checkpoint and write as many bytes as its bundle has; MB/s of source."""
    forget(checkpoint)
    begin, read, written = time.perf_counter(), 0, 0
    with open(target, "wb", buffering=0) as out:
        for path in sorted(checkpoint.glob("*.safetensors")):
            with open(path, "rb", buffering=0) as file:
                while block := file.read(BLOCK_BYTES):
                    read += len(block)
                    written += out.write(block[: min(len(block) * bundle_bytes // path.stat().st_size, len(block))])
        os.fsync(out.fileno())
    speed = read / (time.perf_counter() - begin) / 1e6
    target.unlink()
    return speed


def export(checkpoint: Path, out: Path, flags: list[str]) -> dict[str, Any]:
    """Run the command in a process of its own and return its report, with MB/s of the checkpoint."""
    forget(checkpoint)
    command = [
        sys.executable,
        "-m",
        "hobbit_export",
        str(checkpoint),
        "--out",
        str(out),
        "--no-resume",
        "--json",
        *flags,
    ]
    begin, spent = time.perf_counter(), children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    source = sum(p.stat().st_size for p in checkpoint.glob("*.safetensors"))
    cpu_s = children_cpu_s() - spent
    return {**json.loads(done.stdout), "wall_s": seconds, "cpu_s": cpu_s, "mb_s": source / seconds / 1e6}


def children_cpu_s() -> float:
    """Processor seconds of all commands run so far: steadier than the clock where other work is running."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the checkpoint and the bundles go")
    parser.add_argument("--checkpoint", type=Path, help="an existing checkpoint instead of a generated one")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--tiers", type=int, default=8, choices=(2, 4, 6, 8))
    parser.add_argument("--trunk", default="int8")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", nargs="+", choices=available_isas(), default=available_isas(), help="default: all")
    parser.add_argument("--encoder", action="store_true", help="the encoder alone: nothing is exported")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.encoder:
        encoders(args)
        return
    if args.folder is None:
        parser.error("--folder: expected a folder to export in, or --encoder")
    args.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint or generated(args.folder, args.layers, args.experts)
    bundle = args.folder / "bundle"
    jobs = max(args.threads)
    flags = ["--tiers", str(args.tiers), "--trunk", args.trunk, "--memory", args.memory, "--jobs", str(jobs)]
    encoder: dict[int, list[float]] = {n: [] for n in args.threads}
    copies, exports = [], []
    for _ in range(args.rounds):
        for threads, speeds in encoder.items():
            speeds.append(encoder_speed(args.isa[0], threads, args.tiers))
        exports.append(export(checkpoint, bundle, flags))
        copies.append(copy_speed(checkpoint, args.folder / "copy", exports[-1]["bytes"]))
    shutil.rmtree(bundle)
    result = {
        "machine": platform.processor() or platform.machine(), "isas": available_isas(), "jobs": jobs,
        "source_bytes": sum(p.stat().st_size for p in checkpoint.glob("*.safetensors")),
        "bundle_bytes": exports[0]["bytes"], "peak_rss_bytes": max(e["peak_rss_bytes"] for e in exports),
        "encoder_mb_s": encoder, "copy_mb_s": copies, "export_mb_s": [e["mb_s"] for e in exports],
        "export_s": [e["wall_s"] for e in exports], "export_cpu_s": [e["cpu_s"] for e in exports],
    }  # fmt: skip
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['machine']}, {', '.join(result['isas'])}; source {result['source_bytes'] / 1e9:.2f} GB, "
          f"bundle {result['bundle_bytes'] / 1e9:.2f} GB; MB/s of source, median (lowest to highest)")  # fmt: skip
    rows = [(f"encoder, {n} threads", s) for n, s in encoder.items()]
    rows += [("whole export", result["export_mb_s"]), ("plain copy", copies)]
    for name, speeds in rows:
        print(f"{name:20} {statistics.median(speeds):7.1f}  ({min(speeds):.1f} to {max(speeds):.1f})")
    print(f"whole export: {statistics.median(result['export_cpu_s']):.1f} processor seconds")
    print(f"peak memory {result['peak_rss_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
