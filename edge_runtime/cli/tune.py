"""`hobbit tune`: measure this machine, search settings, and write a profile of what was measured to be faster."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

from edge_runtime.cli.options import add_engine_arguments, engine_options

_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    group = parser.add_argument_group("what is tuned for")
    group.add_argument("--text", metavar="FILE", help="prompts from a UTF-8 text, not random tokens: your own workload")
    group.add_argument("--prompt-tokens", type=int, default=32, metavar="N", help="tokens of each prompt")
    group.add_argument("--gen-tokens", type=int, default=64, metavar="N", help="tokens generated after each")
    group.add_argument("--repeat", type=int, default=2, metavar="R", help="requests of each measurement")
    group = parser.add_argument_group("how")
    group.add_argument("--rounds", type=int, default=5, metavar="N", help="measurements of each finalist, in turn")
    group.add_argument("--finalists", type=int, default=3, metavar="N", help="candidates measured of each axis")
    group.add_argument(
        "--time-budget",
        default="1h",
        metavar="TIME",
        help="time for all of it, such as 20m; what is found by then counts",
    )
    group.add_argument(
        "--change-power-mode", action="store_true",
        help="also try the power modes of a Jetson: it changes them for the whole board, and back at the end",
    )  # fmt: skip
    group.add_argument(
        "--out", metavar="PROFILE.yaml",
        help="profile to write (default: hobbit-tuned-BUNDLE-MACHINE.yaml); a report goes beside it, and a journal "
        "from which an interrupted tuning goes on",
    )  # fmt: skip
    add_engine_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from datetime import datetime, timezone

    from edge_runtime.engine import assembly  # noqa: F401 - planned is a process that has it loaded
    from edge_runtime.lab.bench.folder import write_whole
    from edge_runtime.lab.tune.session import tune
    from edge_runtime.lab.tune.settings import TuneSettings
    from edge_runtime.lab.tune.tuned_profile import tuned_profile

    options = engine_options(args)
    budget, base = options.pop("max_kld", None), options.pop("base_resident", None)  # of candidates, not of all
    out = Path(args.out) if args.out else _default_out(args, options)
    settings = TuneSettings(
        out=out,
        text=Path(args.text) if args.text else None,
        prompt_tokens=args.prompt_tokens,
        gen_tokens=args.gen_tokens,
        requests=args.repeat,
        rounds=args.rounds,
        finalists=args.finalists,
        budget_s=parse_time(args.time_budget),
        max_kld=None if budget is None else float(budget),
        base_resident=base,
        change_power_mode=args.change_power_mode,
        seed=int(args.seed or 0),
    )
    done = tune(Path(args.bundle), options, settings, _say)
    command = shlex.join(["hobbit", *args.words])
    profile = tuned_profile(
        done.profile, done.tuning, done.facts, today=datetime.now(timezone.utc).date(), command=command
    )
    write_whole(out, profile.to_yaml().encode())
    report = done.tuning.to_json() | {"command": command}
    report_path = out.with_suffix(".report.json")
    write_whole(report_path, json.dumps(report, indent=1).encode())
    done.forget()
    if args.json:
        print(json.dumps(report))
    else:
        print(
            *done.tuning.lines(), "", f"profile: {out}    use it: --profile {out}", f"report: {report_path}", sep="\n"
        )
    return 0


def parse_time(text: str) -> float:
    """Return the seconds of a text such as 90, 90s, 20m or 1.5h.

    Raises:
        ConfigError: it is none.
    """
    from edge_runtime.base.errors import ConfigError

    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--time-budget: expected a time such as 90s, 20m or 1.5h, got {text!r}.")
    return float(match[1]) * _SECONDS[match[2]]


def _default_out(args: argparse.Namespace, options: dict[str, object]) -> Path:
    from edge_runtime.lab.probes.base import Subject
    from edge_runtime.lab.tune.fingerprint import fingerprint, machine_facts

    subject = Subject(Path(args.bundle), options)
    machine = fingerprint(machine_facts(subject.path, subject.planned.computes_on))
    return Path(f"hobbit-tuned-{subject.path.resolve().name}-{machine}.yaml")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
