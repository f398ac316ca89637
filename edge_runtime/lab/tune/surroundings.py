"""What there is to tune on this machine: probes, replays of the trace, and the space of candidates that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError, DeviceError
from edge_runtime.base.params import Param
from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.bundle.manifest import Manifest, can_look_ahead
from edge_runtime.bundle.record import BF16
from edge_runtime.config.limits import available_cpus
from edge_runtime.engine.preparation import Planned
from edge_runtime.experts.eviction import RULES, parse_rule
from edge_runtime.lab.probes import drive_grid, memory
from edge_runtime.lab.probes.base import Subject
from edge_runtime.lab.probes.drive_grid import DriveGrid
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.tune.candidate import Candidate, Space, thread_counts
from edge_runtime.lab.tune.measurement import Failure, Measurement, Workload
from edge_runtime.lab.tune.policies import LossAllowed
from edge_runtime.lab.tune.predict import RatePredictor, ReplaySetting
from edge_runtime.lab.tune.read_times import ReadTimes
from edge_runtime.lab.tune.replays import Replays
from edge_runtime.lab.tune.speeds import probe
from edge_runtime.policy import keeps_base
from edge_runtime.prefetch import looks_ahead

RunKind = Callable[..., "dict[str, Any] | Failure"]
_FACTOR = 4
"""Parameters of rules are tried at a quarter of their default and at four times it."""
_LOOK_AHEADS = ("off", "lookahead:depth=1", "lookahead:depth=2")


@dataclass(frozen=True)
class Surroundings:
    """What was found out before the search.

    Attributes:
        space: what there is to choose from.
        predictor: of rates.
        probes: as plain data, by name; a text where one could not be measured.
        facts: rates a profile may state.
        left_out: what is not varied, and why.
    """

    space: Space
    predictor: RatePredictor
    probes: Mapping[str, Any]
    facts: Mapping[str, float | None]
    left_out: tuple[str, ...]


def survey(
    subject: Subject, trace: Path, workload: Workload, baseline: Measurement, allowed: LossAllowed, job: RunKind,
    power_modes: Sequence[str] = (),
) -> Surroundings:  # fmt: skip
    """Probe and prepare. Only what is streamed needs drive and trace.

    Args:
        subject: what is tuned.
        trace: of its workload's requests.
        workload: that was recorded.
        baseline: measured of it.
        allowed: what a change may cost.
        job: runs a kind of job for a candidate in a process, as `ProcessLaboratory.job` does.
        power_modes: that may be tried besides the present one.
    """
    planned = subject.planned
    plan, left_out = planned.plan, []
    fits_all = plan.num_slots >= plan.all_experts
    grid: DriveGrid | None = None
    probes: dict[str, Any] = {}
    if not fits_all:
        try:
            grid = drive_grid.run(subject)
            probes["drive"] = grid.to_json()
        except DeviceError as err:
            probes["drive"] = str(err)
            left_out.append(f"reads, as the drive cannot be measured: {err}")
    found = memory.run(subject)
    probes["memory"] = found.to_json()
    calibration = read_calibration(subject.path, planned.bundle.manifest.model)
    replays = Replays(Trace(trace), workload, planned.config.prefill_chunk, calibration)
    present = present_settings(planned)
    speeds = probe(lambda candidate: job("speed", candidate), _speeds_wanted(planned, subject.options, allowed))
    probes["compute"] = speeds.to_json()
    times = None
    if grid is not None:
        said = job("reads", Candidate(), points=_points_wanted(grid, present, subject.options))
        if isinstance(said, Failure):
            left_out.append(f"predictions of reads: {said.why}")
        else:
            times = ReadTimes.of_samples(said["samples"])
            probes["reads"] = {**said, "lines": times.to_json()}
    tier_bytes = {tier: planned.bundle.manifest.layout.tier_bytes(tier) for tier in planned.needs.slot_bytes}
    predictor = RatePredictor(present, tier_bytes, plan.working_set, baseline, replays, times, speeds)
    space = replace(_space(planned, grid, replays, present, allowed), power_modes=power_modes)
    facts = {"drive_read_gb_s": grid.best.gbps if grid else None, "memory_read_gb_s": found.best.gb_s}
    return Surroundings(space, predictor, probes, facts, (*left_out, *_unvaried(planned, space, allowed)))


def _speeds_wanted(planned: Planned, given: Mapping[str, Any], allowed: LossAllowed) -> list[tuple[int, int]]:
    """Return the threads and tiers that candidates may have, the present ones first: what they read lies on top."""
    threads, tier = planned.config.threads, planned.config.tier
    others = [] if "threads" in given else [(n, tier) for n in thread_counts(available_cpus()) if n != threads]
    lossy = allowed.max_kld is not None
    tiers = [t for t in planned.needs.slot_bytes if t != tier and t != BF16] if lossy else []
    return [(threads, tier), *others, *((threads, each) for each in tiers)]


def _points_wanted(grid: DriveGrid, present: Mapping[str, Any], given: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the sizes of parts and the parts under way that candidates may have, the present ones first."""
    own = (int(present["read_chunk"]), int(present["io_threads"]))
    if {"read_chunk", "io_threads"} & given.keys():
        return [own]
    return [*dict.fromkeys([own, *((p.block_bytes, p.depth) for p in grid.points if p.mode == "direct")])]


def present_settings(planned: Planned) -> dict[str, Any]:
    """Return what of the options in force predictions start from, see `RatePredictor.present`."""
    config, plan, choice = planned.config, planned.plan, planned.active.choice
    names = ("read_chunk", "io_threads", "direct_io", "threads", "tier")
    return {name: getattr(config, name) for name in names} | {
        "eviction": choice.eviction,
        "policy": choice.text,
        "num_slots": min(plan.num_slots + plan.borrowed_slots, plan.all_experts),
    }


def _space(
    planned: Planned, grid: DriveGrid | None, replays: Replays, present: Mapping[str, Any], allowed: LossAllowed
) -> Space:
    plan, manifest = planned.plan, planned.bundle.manifest
    now = ReplaySetting(present["num_slots"], present["eviction"], present["policy"], present["tier"])

    def runs(**other: str) -> bool:
        return replays.can(ReplaySetting(**{**vars(now), **other}))

    points, fits_all = grid.points if grid else (), plan.num_slots >= plan.all_experts
    can_see = can_look_ahead(manifest)
    return Space(
        cpus=available_cpus(),
        slot_bytes=plan.slot_bytes,
        num_slots=plan.num_slots,
        least_slots=manifest.model.top_k,
        fits_all=fits_all,
        eviction=[text for text in _rules() if parse_rule(text) != parse_rule(now.eviction) and runs(eviction=text)],
        prefetch=[
            text for text in _LOOK_AHEADS if text != planned.active.prefetch and (can_see or not looks_ahead(text))
        ],
        read_chunks=sorted({point.block_bytes for point in points if point.mode == "direct"}),
        io_threads=sorted({point.depth for point in points if point.mode == "direct"}),
        policies=[text for text in allowed.policies() if not (fits_all and keeps_base(text)) and runs(policy=text)],
        tiers=[] if allowed.max_kld is None or allowed.base_resident else _tiers_below(present["tier"], manifest),
    )


def _rules() -> Iterator[str]:
    """Every rule as it is, and with each of its parameters moved."""
    for name, rule in RULES.items():
        yield name
        for key, param in rule.params.items():
            yield from (f"{name}:{key}={value:g}" for value in _moved(param))


def _moved(param: Param) -> Iterator[float]:
    if isinstance(param.default, (bool, str)):
        return
    for value in (param.default / _FACTOR, param.default * _FACTOR):
        text = f"{type(param.default)(value):g}"
        try:
            param.convert(text, "tune")
        except ConfigError:
            continue
        yield float(text)


def _tiers_below(tier: int, manifest: Manifest) -> list[int]:
    return [each for each in manifest.experts.tiers if each < tier and each != BF16]


def _unvaried(planned: Planned, space: Space, allowed: LossAllowed) -> list[str]:
    trunk = planned.bundle.manifest.trunk.precision
    found = [f"trunk precision: the bundle has one trunk, {trunk}; export another bundle to compare"]
    if space.fits_all:
        found.append("reads, eviction, cache size, look-ahead and overlap: every expert stays in memory")
    elif not can_look_ahead(planned.bundle.manifest):
        found.append("look-ahead: the bundle's exporter did not store the routers for it")
    if allowed.base_resident and not space.policies:
        found.append(f"every expert at its lowest tier in memory: {_why_no_base(space.fits_all)}")
    if allowed.max_kld is None:
        found.append("tiers and policy: they change what is said; --max-kld states how much may be lost")
    if not space.power_modes:
        found.append("power mode: switching it needs a person's word, --change-power-mode, and a Jetson")
    return found


def _why_no_base(fits_all: bool) -> str:
    if fits_all:
        return "all are, at the full tier"
    return "it does not fit, or the bundle is not calibrated for it; `hobbit plan --base-resident` says which"
