"""Which model on which board at what speed: the tables of README.md and docs/boards.md.

    python tools/board_table.py            writes both tables
    python tools/board_table.py --check    exits with 1 if a table is out of date
    python tools/board_table.py --tier 2   prints the boards' table for another tier

Arithmetic from sizes, no run: memory plan and speed are those of `hobbit plan --boards`. docs/boards.md says what is
assumed and how far measured runs were from it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marked_page

from benchmarks.compare import figures, results, runs
from benchmarks.compare.plot import regime
from benchmarks.compare.workload import LOSSLESS, OURS
from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.sizes import format_size
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import Manifest, TrunkPrecision
from edge_runtime.bundle.record import record_layout
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.memory_plan import MemoryPlan
from edge_runtime.config.profiles import load_profile, profile_names
from edge_runtime.lab.board_plans import BoardPlan
from edge_runtime.lab.shape_plan import PartToCome, manifest_to_come, plan_shape
from edge_runtime.lab.speed_estimate import SpeedEstimate, hit_rate
from hobbit_export.arch import read_model
from hobbit_export.expected_parts import trunk_parts, weight_bytes
from hobbit_export.shards import read_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/compare.jsonl"
SEGMENTS = 4
"""Of a record: all tiers up to 8 bits."""
TRUNK: TrunkPrecision = "int8"
"""The exporter's default."""

COLUMNS = ("orin-nano-8gb-super", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb", "agx-thor", "raspberry-pi-5-16gb")
"""Boards of README.md's table; docs/boards.md has all."""

CONFIGS = ROOT / "tests/published_configs"
MODELS = {
    "Qwen3-30B-A3B": "Qwen3-30B-A3B",
    "Qwen3.5-35B-A3B": "Qwen3.5-35B-A3B",
    "Qwen3-Next-80B-A3B": "Qwen3-Next-80B-A3B-Instruct",
    "gpt-oss-20b": "gpt-oss-20b",
    "gemma-4-26B-A4B": "gemma-4-26B-A4B-it",
    "GLM-4.7-Flash": "GLM-4.7-Flash",
    "LFM2-8B-A1B": "LFM2-8B-A1B",
    "Mixtral-8x7B": "Mixtral-8x7B-Instruct-v0.1",
    "OLMoE-1B-7B": "OLMoE-1B-7B-0924-Instruct",
}
"""Name in the tables -> its folder in `CONFIGS`. docs/models.md has more."""


def spec_of(name: str) -> ModelSpec:
    """Return the shape of a model of `MODELS`, from its published configuration."""
    config = read_json(CONFIGS / MODELS[name] / "config.json")
    config.pop("quantization_config", None)  # how its weights are stored does not change their shapes
    return read_model(config, {})[0]


def trunk_shapes(spec: ModelSpec) -> list[tuple[int, ...]]:
    """Shapes of the trunk's weights that every token reads: attention, routers, shared experts, dense layers, head."""
    shapes = [shape for layer in range(spec.num_layers) for shape in layer_weight_shapes(spec, layer).values()]
    return [*shapes, (spec.vocab_size, spec.hidden)]


def trunk_bytes(spec: ModelSpec) -> int:
    """Bytes of `trunk_shapes` at the exporter's default precision."""
    return sum(weight_bytes(shape, TRUNK) for shape in trunk_shapes(spec))


def manifest_of(spec: ModelSpec) -> Manifest:
    """Return what the manifest of the model's bundle would say of sizes, exported with all tiers up to 8 bits."""
    layout = record_layout(spec, SEGMENTS)
    parts = [PartToCome(part.name, "trunk", part.bytes) for part in trunk_parts(spec, TRUNK) if part.kind == "trunk"]
    return manifest_to_come(spec, layout.tiers, SEGMENTS, TRUNK, parts)


def plan_for(spec: ModelSpec, profile: DeviceProfile, tier: int) -> BoardPlan:
    """Plan as `hobbit plan --boards` does."""
    return plan_shape(manifest_of(spec), profile, {"tier": tier})


def board_bytes(profile: DeviceProfile) -> int:
    """Memory the board's system sees.

    Raises:
        ConfigError: the profile does not say how much it has.
    """
    if profile.memory_bytes is None:
        raise ConfigError(f"profile {profile.name!r}: system_memory: expected a size, got none.")
    return profile.memory_bytes


@dataclass(frozen=True)
class Estimate:
    """A model on a board, from sizes: the memory plan, and the speed it would have at most."""

    plan: MemoryPlan
    speed: SpeedEstimate

    def __str__(self) -> str:
        speed = self.speed
        limit = "memory" if speed.memory_s > speed.cpu_s else "CPU"
        parts = (speed.drive_s, max(speed.memory_s, speed.cpu_s), speed.work.other_s)
        return f"{' + '.join(f'{1e3 * part:.0f}' for part in parts)} ({limit})"


def estimate(spec: ModelSpec, profile: DeviceProfile, tier: int) -> Estimate | None:
    """Plan, then bound the speed of decoding; None: the model does not fit."""
    found = plan_for(spec, profile, tier)
    return None if found.plan is None or found.speed is None else Estimate(found.plan, found.speed)


def boards() -> list[DeviceProfile]:
    """Profiles that name a board and its rates, the smallest first."""
    found = [load_profile(name) for name in profile_names()]
    return sorted((p for p in found if p.memory_bytes), key=board_bytes)


def board_rows(tier: int) -> Iterator[str]:
    """Yield a line for each model and board, with everything the speed follows from."""
    yield (
        "| model | board | for experts | cached | assumed hits | missed a token | touched a token "
        "| ms: drive + computing + other | tok/s, at most |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in MODELS:
        spec = spec_of(name)
        for profile in boards():
            e = estimate(spec, profile, tier)
            if e is None:
                yield f"| {name} | {profile.name} | does not fit | | | | | | |"
                continue
            share = e.plan.cache_share
            cells = [
                name, profile.name, format_size(e.plan.arena_bytes), _percent(share), _percent(hit_rate(share)),
                f"{e.speed.missed_bytes / 1e6:.0f} MB", f"{e.speed.touched_bytes / 1e6:.0f} MB", str(e),
                _speed(e.speed.tok_s),
            ]  # fmt: skip
            yield f"| {' | '.join(cells)} |"


def summary_rows(tier: int) -> Iterator[str]:
    """Yield the short table: a line for each model, a column for each board."""
    columns = [profile for profile in boards() if profile.name in COLUMNS]
    names = [re.sub("^(Jetson|Raspberry) ", "", profile.board) for profile in columns]
    yield f"| model, experts at {tier} bits | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(columns)
    for name in MODELS:
        spec = spec_of(name)
        layout = record_layout(spec, SEGMENTS)
        size = len(spec.sparse_layers) * spec.num_experts * layout.tier_bytes(tier)
        cells = [f"{name}, {format_size(size)}", *(_cell(spec, profile, tier) for profile in columns)]
        yield f"| {' | '.join(cells)} |"


def _cell(spec: ModelSpec, profile: DeviceProfile, tier: int) -> str:
    e = estimate(spec, profile, tier)
    return "does not fit" if e is None else f"{_speed(e.speed.tok_s)} ({_percent(e.plan.cache_share)})"


def measured_rows() -> Iterator[str]:
    """Yield measured runs beside the same arithmetic, given what each run missed and touched."""
    yield (
        "| processor | model | memory | cached | hits | assumed hits | missed a token | touched a token "
        "| tok/s, at most | tok/s, measured | reached |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in figures.rows(results.newest(results.read(RESULTS))[0]):
        ours = [c for c in row["cells"] if (c["side"], c["variant"]) == (OURS, LOSSLESS) and c.get("measured")]
        if ours:
            machine = ours[0]["machine"]
            processor = machine["isa"] + (" chosen" if machine.get("best_isa") else "")
            yield f"| {processor} {_measured_row(row['model'], regime(row), ours)}"


_EXPERTS = {"S1": 8 * 128, "S1-int4": 8 * 128, "S2": 12 * 8}
"""Experts of the synthetic checkpoints of docs/benchmarks.md."""


def _measured_row(model: str, label: str, cells: Sequence[Mapping[str, Any]]) -> str:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    decode = [c["measured"]["decode"] for c in cells]
    share = min(1.0, median(c["measured"]["num_slots"] / _EXPERTS[model] for c in cells))
    hits = median(d["experts"]["hits"] / sum(d["experts"][k] for k in ("hits", "late", "misses")) for d in decode)
    missed = median(d["needed_bytes"] / d["n"] for d in decode)
    touched = median(d["touched_bytes"] / d["n"] for d in decode)
    bounds = [
        1e9 * d["n"] / (d["needed_bytes"] / _drive(c) + d["touched_bytes"] / runs.bus_ceiling(c))
        for c, d in zip(cells, decode, strict=True)
    ]
    speeds = [1e3 * d["n"] / d["ms"] for d in decode]
    reached = median(speed / bound for speed, bound in zip(speeds, bounds, strict=True))
    figures = [
        model, label, _percent(share), _percent(hits), _percent(hit_rate(share)), f"{missed / 1e6:.0f} MB",
        f"{touched / 1e6:.0f} MB", f"{statistics.median(bounds):.1f}", f"{statistics.median(speeds):.1f}",
        _percent(reached),
    ]  # fmt: skip
    return f"| {' | '.join(figures)} |"


def _drive(cell: Mapping[str, Any]) -> float:
    around = cell["measured"]["decode"].get("drive_gbps")
    return statistics.fmean(around) if around else float(cell["drive_gbps"])


def _speed(tok_s: float) -> str:
    return f"{tok_s:.0f}" if tok_s >= 10 else f"{tok_s:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def main(argv: Sequence[str] | None = None) -> int:
    """Write both pages, compare them, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    parser.add_argument("--tier", type=int, choices=(2, 4, 6, 8), help="print the boards' table for this tier")
    args = parser.parse_args(argv)
    if args.tier:
        sys.stdout.write("\n".join(board_rows(args.tier)) + "\n")
        return 0
    pages = {
        ROOT / "README.md": {"boards": summary_rows(4)},
        ROOT / "docs/boards.md": {"boards": board_rows(4), "measured": measured_rows()},
    }
    fresh = {path: marked_page.put_all(path, "board_table", tables) for path, tables in pages.items()}
    return marked_page.write(fresh, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
