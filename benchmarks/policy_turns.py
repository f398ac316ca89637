"""Policies in turn on one machine: tok/s over lossless, bytes, share of the drive's limit, first and later prompt.

    python -m benchmarks.policy_turns BUNDLE --tokens stream.json --out FILE.json [--rounds 2] [--turns 8] [--share 0.5]

The engines of one full tier are open together, each with memory for a share of all experts. In every round they are
opened anew; each runs a prompt, decodes a few tokens to fill its cache, and then they take turns of 8 tokens, beginning
with another one each time; at last each runs another prompt. Every policy is given the same prompts and seeds. The
drive is probed before and after the turns. Needs a bundle with the tiers 8, 4 and 2 and a calibration, as much memory
as the engines of a tier together, and a machine that does nothing else. The file is written anew after every round.
What the bundle cannot run is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.compare.machine import identity
from benchmarks.compare.ours import drive_gbps, mark, prefill, stage
from benchmarks.source import commit
from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import BudgetError, ConfigError
from edge_runtime.bundle.manifest_file import read as read_manifest
from edge_runtime.lab.bench.folder import write_whole

LOSSLESS = "lossless"
HOBBIT = "hobbit:quantiles=true"
Row = Mapping[str, Any]


class Setting(NamedTuple):
    """What is measured: a name in the report, the full tier, and the engine's options."""

    name: str
    tier: int
    options: dict[str, Any]


SETTINGS = (
    Setting(LOSSLESS, 8, {}),
    Setting("hobbit 8/2", 8, {"policy": HOBBIT}),
    Setting("base-resident", 8, {"max_kld": 0.02, "base_resident": True}),
    Setting(LOSSLESS, 4, {}),
    Setting("hobbit 4/2", 4, {"policy": HOBBIT}),
    Setting("mobile", 4, {"policy": "mobile"}),
    Setting("cache-prior", 4, {"policy": "cache-prior:lambda=0.3"}),
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("bundle", type=Path)
    found.add_argument("--tokens", type=Path, required=True, help="JSON list of token ids that prompts are cut from")
    found.add_argument("--out", type=Path, required=True)
    found.add_argument("--share", type=float, default=0.5, help="of all experts at the full tier")
    found.add_argument("--rounds", type=int, default=2)
    found.add_argument("--turns", type=int, default=8)
    found.add_argument("--turn-tokens", type=int, default=8)
    found.add_argument("--warm-tokens", type=int, default=64)
    found.add_argument("--prompt-tokens", type=int, default=128)
    found.add_argument("--threads", type=int, default=2)
    found.add_argument(
        "--hobbit", default=HOBBIT, metavar="POLICY",
        help="with thresholds, where the bundle's calibration has none: hobbit:t1=X,t2=Y (see hobbit calibrate)",
    )  # fmt: skip
    found.add_argument("--only", nargs="+", metavar="NAME", help="settings, beside lossless of their tier")
    found.add_argument("--tier", type=int, nargs="+", default=[8, 4], choices=(8, 4))
    found.add_argument("--seed", type=int, default=1)
    return found


def prompts_of(ids: Sequence[int], round_number: int, tokens: int) -> tuple[list[int], list[int]]:
    """Return a round's first and later prompt, which no other round has; the stream starts over where it ends.

    Raises:
        SystemExit: it is shorter than the two.
    """
    if len(ids) < 2 * tokens:
        raise SystemExit(f"--tokens: expected at least {2 * tokens}, got {len(ids)}.")
    start = 2 * round_number * tokens
    both = [ids[(start + i) % len(ids)] for i in range(2 * tokens)]
    return both[:tokens], both[tokens:]


def turn_order(names: Sequence[str], turn: int) -> list[str]:
    """Return who goes when in a turn: every turn begins with another one."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


class Runner:
    """Measures the settings of a tier, round by round.

    Args:
        args: of `parser`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.ids: list[int] = json.loads(args.tokens.read_text(encoding="utf-8"))
        self.tokens = args.turns * args.turn_tokens
        self.left_out: dict[str, str] = {}
        """Settings that the bundle or the machine cannot run, and why."""

    def opened(self, setting: Setting) -> Engine:
        """Open an engine with memory for its share of all experts."""
        args, manifest = self.args, read_manifest(self.args.bundle)
        experts = int(args.share * manifest.model.num_experts * len(manifest.model.sparse_layers))
        context = 2 * args.prompt_tokens + args.warm_tokens + self.tokens + 2
        return Engine.open(
            args.bundle, tier=setting.tier, expert_memory=experts * manifest.layout.tier_bytes(setting.tier),
            threads=args.threads, context=context, self_check=False, **setting.options,
        )  # fmt: skip

    def round(self, number: int, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """Measure one round; return a row a setting."""
        args, (first, later) = self.args, prompts_of(self.ids, number, self.args.prompt_tokens)
        with ExitStack() as stack:
            engines: dict[str, Engine] = {}
            for each in settings:
                try:
                    engines[each.name] = stack.enter_context(self.opened(each))
                except (ConfigError, BudgetError) as err:
                    self.left_out[f"{each.tier} bits, {each.name}"] = str(err)
            rows: dict[str, dict[str, Any]] = {
                each.name: {"round": number, "setting": each.name, "tier": each.tier, "turns": [],
                            "num_slots": engines[each.name].parts.plan.num_slots}
                for each in settings
                if each.name in engines
            }  # fmt: skip
            for name, engine in engines.items():
                rows[name]["first_prompt"] = prefill(engine, first)
            streams = {name: self.stream(engine, first, number) for name, engine in engines.items()}
            probed = next(iter(engines.values()))
            drive = [drive_gbps(probed, args.seed + 2 * number)]
            for turn in range(args.turns):
                for name in turn_order(list(engines), turn):
                    rows[name]["turns"].append(self.turn(engines[name], streams[name]))
            drive.append(drive_gbps(probed, args.seed + 2 * number + 1))
            for name, engine in engines.items():
                streams[name].close()
                rows[name]["later_prompt"] = prefill(engine, later)
                rows[name]["drive_gbps"] = drive
        return list(rows.values())

    def stream(self, engine: Engine, prompt: list[int], number: int) -> Iterator[Any]:
        """Go on behind a prompt: return the tokens' iterator once the cache has seen some."""
        params = SamplingParams(
            max_tokens=1 + self.args.warm_tokens + self.tokens, temperature=1.0, seed=self.args.seed + number,
            ignore_eos=True,
        )  # fmt: skip
        found = engine.stream(prompt, params, reuse_prefix=True)
        for _ in range(1 + self.args.warm_tokens):
            next(found)
        return found

    def turn(self, engine: Engine, tokens: Iterator[Any]) -> dict[str, Any]:
        """Take a turn; return what happened in it, as a stage of `benchmarks.compare.ours`."""
        before, count = mark(engine), self.args.turn_tokens
        for _ in range(count):
            next(tokens)
        after = mark(engine)
        fallbacks = after.experts.since(before.experts).fallbacks
        return stage(engine, before, after, count, passes=count) | {"fallbacks": fallbacks}


def table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one line a tier and setting, over all rounds: medians and quartiles of turns, and what limits them.

    `of_limit` is the time that the bytes which had to come from the drive take at its rate, over the time taken; what a
    lossy policy read ahead in vain is among them.
    """
    found = []
    for tier, name in dict.fromkeys((row["tier"], row["setting"]) for row in rows):
        mine = [row for row in rows if (row["tier"], row["setting"]) == (tier, name)]
        found.append({"tier": tier, "setting": name, **_line(mine)})
    base = {line["tier"]: line["tok_s"] for line in found if line["setting"] == LOSSLESS}
    for line in found:
        line["over_lossless"] = round(line["tok_s"] / base[line["tier"]], 3) if line["tier"] in base else None
    return found


def _line(rows: Sequence[Row]) -> dict[str, Any]:
    turns = [turn for row in rows for turn in row["turns"]]
    tokens, ms = sum(turn["n"] for turn in turns), sum(turn["ms"] for turn in turns)
    rates = [1000 * turn["n"] / turn["ms"] for turn in turns]
    low, middle, high = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    least_ms = sum(
        turn["needed_bytes"] / statistics.fmean(row["drive_gbps"]) / 1e6 for row in rows for turn in row["turns"]
    )
    names = list(turns[0]["phase_ms"])
    return {
        "turns": len(turns),
        "tok_s": round(middle, 2),
        "quartiles": [round(low, 2), round(high, 2)],
        "mb_per_token": round(sum(turn["experts"]["bytes_read"] for turn in turns) / tokens / 1e6, 2),
        "of_limit": round(least_ms / ms, 3),
        "ms_per_token": {name: round(sum(turn["phase_ms"][name] for turn in turns) / tokens, 2) for name in names},
        "second_passes": round(sum(turn["fallbacks"] for turn in turns) / tokens, 3),
        "first_prompt_tok_s": _prompt_rate(rows, "first_prompt"),
        "later_prompt_tok_s": _prompt_rate(rows, "later_prompt"),
    }


def _prompt_rate(rows: Sequence[Row], which: str) -> float:
    return round(statistics.median(1000 * row[which]["n"] / row[which]["ms"] for row in rows), 1)


def chosen(args: argparse.Namespace) -> list[Setting]:
    """Return the settings that are asked for.

    Raises:
        SystemExit: a name is none of them.
    """
    known = {each.name for each in SETTINGS}
    if unknown := sorted({*(args.only or [])} - known):
        raise SystemExit(f"--only {' '.join(unknown)}: expected some of {', '.join(sorted(known))}.")
    asked = [each for each in SETTINGS if each.tier in args.tier
             and (args.only is None or each.name in {LOSSLESS, *args.only})]  # fmt: skip
    hobbit = {"policy": f"{args.hobbit},low=2"}
    return [each._replace(options=hobbit) if each.options.get("policy") == HOBBIT else each for each in asked]


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    settings, runner = chosen(args), Runner(args)
    rows: list[dict[str, Any]] = []
    about = {
        "machine": identity(args.bundle), "commit": commit(), "bundle_id": read_manifest(args.bundle).bundle_id,
        "settings": {k: v for k, v in vars(args).items() if k not in ("bundle", "tokens", "out")},
        "options": {f"{each.tier} bits, {each.name}": each.options for each in settings},
    }  # fmt: skip
    for number in range(args.rounds):
        for tier in args.tier:
            load = round(os.getloadavg()[0], 2)
            when = datetime.now(timezone.utc).isoformat("T", "seconds")
            measured = runner.round(number, [each for each in settings if each.tier == tier])
            rows += [{"when": when, "load_before": load, **row} for row in measured]
            said = {**about, "left_out": runner.left_out, "table": table(rows), "rows": rows}
            write_whole(args.out, (json.dumps(said) + "\n").encode())
            print(f"round {number}, {tier} bits, load {load} before", flush=True)
    for line in table(rows):
        print(json.dumps(line))
    for name, why in runner.left_out.items():
        print(f"left out: {name}: {why}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
