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
    from edge_runtime.config.device_profile import DeviceProfile
    from edge_runtime.config.resolve import EngineOptions
    from edge_runtime.engine.preparation import Planned
    from edge_runtime.lab.speed_estimate import SpeedEstimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    parser.add_argument("--serve", action="store_true", help="count what `hobbit serve` keeps for requests as well")
    parser.add_argument(
        "--boards", action="store_true", help="one line for every device profile: does it fit, how fast at most"
    )
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
    from edge_runtime.engine.preparation import plan_only

    for name in ("drive_gbps", "memory_gbps"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e6:
            raise ConfigError(f"{name.replace('_', '-')}: expected a rate above 0, got {value:g}.")
        if value is not None and args.boards:
            raise ConfigError(
                f"{name.replace('_', '-')}: it is a rate of this machine, and --boards takes each board's."
            )
    with _requests() if args.serve else nullcontext(0) as reserved:
        options = EngineOptions.from_keywords(engine_options(args), request_bytes=reserved)
        if args.boards:
            return _print_boards(args, options)
        planned = plan_only(args.bundle, options)
    plan, sampling = planned.plan, planned.bundle.manifest.sampling
    speed, sources = _estimate(planned, args)
    if args.json:
        print(json.dumps({**plan.to_json(), "sampling": sampling.given, "speed": speed.to_json()}))
        return 0
    lines = [_profile_line(planned.config.profile), *plan.table(), *speed.lines(sources)]
    if sampling.given:
        lines.append(f"sampling the model wants: {sampling.describe()}")
    if plan.ceiling.reason != "--memory":
        lines.append(
            "--memory auto takes the tightest of the cgroup's limit and the memory available less --os-reserve; "
            "--memory SIZE states a ceiling."
        )
    print("\n".join(lines))
    return 0


def _profile_line(profile: DeviceProfile) -> str:
    from edge_runtime.config.boards import identify, read_board

    here = identify(read_board())
    if profile == here.profile:
        return f"profile: {profile.name}, this machine's ({here.why})"
    return f"profile: {profile.name}, as asked; this machine's is {here.profile.name}"


def _print_boards(args: argparse.Namespace, options: EngineOptions) -> int:
    from edge_runtime.lab.board_plans import board_lines, plan_boards

    boards = plan_boards(args.bundle, options)
    if args.json:
        print(json.dumps({"boards": [board.to_json() for board in boards]}))
    else:
        print("\n".join(board_lines(boards)))
    return 0


def _estimate(planned: Planned, args: argparse.Namespace) -> tuple[SpeedEstimate, str]:
    """Return the estimate, and where its rates come from."""
    from edge_runtime.lab.plan_speed import estimate_speed, known_rate

    config = planned.config
    drive = known_rate("drive", config.profile, args.drive_gbps)
    memory = known_rate("memory", config.profile, args.memory_gbps)
    manifest = planned.bundle.manifest
    speed = estimate_speed(manifest, planned.plan, drive=drive, memory=memory, threads=config.threads)
    return speed, "; ".join(f"{rate.name} rate {rate.origin}" for rate in (drive, memory))


@contextmanager
def _requests() -> Iterator[int]:
    """Yield what bodies of requests may take; meanwhile the plan counts the process for templates and grammars."""
    from edge_runtime.config.environment import given, values_of
    from edge_runtime.config.options import ServiceOptions
    from edge_runtime.service.http.bodies import request_bytes
    from edge_runtime.service.service import confined_host

    host = confined_host()
    try:
        yield request_bytes(values_of(ServiceOptions, given({}, os.environ)).body_limit)
    finally:
        host.close()
