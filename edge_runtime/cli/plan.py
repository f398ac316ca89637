"""`hobbit plan`: the memory plan line by line and an estimate of its speed, before anything big is loaded."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from edge_runtime.cli.options import add_engine_arguments, engine_options

if TYPE_CHECKING:
    from edge_runtime.engine.preparation import Prepared
    from edge_runtime.lab.speed_estimate import SpeedEstimate

_WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.03, "int4": 0.56}
"""Of the trunk, by its precision, scales included."""
_EVERY_TOKEN = ("trunk", "router")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--serve", action="store_true", help="count what `hobbit serve` keeps for requests as well")
    group = parser.add_argument_group("estimate of the speed")
    group.add_argument(
        "--drive-gbps", type=float, metavar="X",
        help="GB/s of the drive (default: the profile's, else 2); `hobbit bench` measures it",
    )  # fmt: skip
    group.add_argument(
        "--memory-gbps", type=float, metavar="X", help="GB/s of the memory (default: the profile's, else 20)"
    )
    add_engine_arguments(parser, opens_engine=False)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.base.errors import ConfigError
    from edge_runtime.config.resolve import EngineOptions
    from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
    from edge_runtime.engine.preparation import prepare

    for name in ("drive_gbps", "memory_gbps"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e6:
            raise ConfigError(f"{name.replace('_', '-')}: expected a rate above 0, got {value:g}.")
    with _requests() if args.serve else nullcontext(0) as reserved:
        options = EngineOptions.from_keywords(engine_options(args), request_bytes=reserved)
        prepared = prepare(args.bundle, options)
    plan, sampling = prepared.plan, prepared.bundle.manifest.sampling
    speed, sources = _estimate(prepared, args)
    if args.json:
        print(json.dumps({**plan.to_json(), "sampling": sampling.given, "speed": speed.to_json()}))
        return 0
    lines = [*plan.table(), *speed.lines(sources)]
    if sampling.given:
        lines.append(f"sampling the model wants: {sampling.describe()}")
    if plan.ceiling.reason != "--memory":
        lines.append(
            "--memory auto takes the tightest of the cgroup's limit and the memory available less --os-reserve; "
            "--memory SIZE states a ceiling."
        )
    print("\n".join(lines))
    return 0


def _estimate(prepared: Prepared, args: argparse.Namespace) -> tuple[SpeedEstimate, str]:
    """Return the estimate, and where its rates come from."""
    from edge_runtime.lab import speed_estimate as speed

    profile, plan, manifest = prepared.config.profile, prepared.plan, prepared.bundle.manifest
    drive = args.drive_gbps or profile.drive_read_gb_s.value or speed.ASSUMED_DRIVE_GB_S
    memory = args.memory_gbps or profile.memory_read_gb_s.value or speed.ASSUMED_MEMORY_GB_S
    trunk = sum(part.bytes for part in manifest.parts if part.role in _EVERY_TOKEN)
    weights = trunk / _WEIGHT_BYTES[manifest.trunk.precision]
    work = speed.Work(
        expert_bytes=plan.working_set * plan.slot_bytes,
        trunk_bytes=trunk,
        instructions=plan.working_set * manifest.layout.num_weights * speed.INSTRUCTIONS[plan.tier]
        + weights * speed.TRUNK_INSTRUCTIONS,
        cached=plan.cache_share,
        other_s=manifest.model.num_layers * speed.LAYER_S,
    )
    said = [
        f"{name} rate from {flag}" if given else f"{name} rate from profile {profile.name}, {rate.basis}" if rate.value
        else f"{name} rate assumed, {flag} states it"
        for name, flag, given, rate in (
            ("drive", "--drive-gbps", args.drive_gbps, profile.drive_read_gb_s),
            ("memory", "--memory-gbps", args.memory_gbps, profile.memory_read_gb_s),
        )
    ]  # fmt: skip
    return speed.SpeedEstimate(work, speed.Rates(drive, memory, prepared.config.threads)), "; ".join(said)


@contextmanager
def _requests() -> Iterator[int]:
    """Yield what bodies of requests may take; meanwhile the plan counts the process for templates and grammars."""
    from edge_runtime.config.environment import given, settle
    from edge_runtime.config.options import ServiceOptions
    from edge_runtime.service.http.bodies import request_bytes
    from edge_runtime.service.service import confined_host

    host = confined_host()
    try:
        yield request_bytes(settle(ServiceOptions, given({}, os.environ)).body_limit)
    finally:
        host.close()
