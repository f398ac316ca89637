"""How far predictions of `hobbit tune` are off: settings predicted from probes and one measured setting, then measured.

    python benchmarks/bench_predictions.py BUNDLE --tokens stream.json --memory 2GiB --out predictions.json
        [--rounds 5] [--seconds 80]

Settings that change what is said are rehearsed once. Every round probes reads and computing and measures each setting
once, in turn, beginning with another one each time. What is done is in the file at once; the same command goes on where
the file ends, so that it can be run in pieces of `--seconds`. What is there of something else, such as another bundle
or another size of the cache, is set aside, and said. Prints for each setting the median of its rounds, what was
predicted from the medians of the first setting's, how far that may be off by what its probes say, and the error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from edge_runtime.bundle.calibration import read as read_calibration
from edge_runtime.bundle.record import BF16
from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.probes.base import Subject
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.doubt import doubt
from edge_runtime.lab.tune.gate import checksum_rate
from edge_runtime.lab.tune.measurement import Measurement, Workload, typical
from edge_runtime.lab.tune.predict import RatePredictor
from edge_runtime.lab.tune.processes import require, run_job
from edge_runtime.lab.tune.read_times import ReadTimes
from edge_runtime.lab.tune.rehearsal import Rehearsal
from edge_runtime.lab.tune.replays import Replays
from edge_runtime.lab.tune.speeds import ComputeSpeeds, probe
from edge_runtime.lab.tune.surroundings import present_settings

_PATIENCE_S = 600.0
_MIB = 1 << 20


class Bench:
    """Everything that is measured, and the file it goes to."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, ids = args, json.loads(args.tokens.read_text(encoding="utf-8"))
        self.options: dict[str, Any] = {
            "context": 256,
            "prefetch": "off",
            "memory": args.memory,
            "threads": args.threads,
        }
        self.options |= {"io_threads": 8, "read_chunk": _MIB}
        self.workload = Workload(
            [ids[100 * n : 100 * n + args.prompt_tokens] for n in range(3)], args.gen_tokens
        )  # fmt: skip
        self.subject = Subject(args.bundle, self.options)
        self.trace = args.out.with_suffix(".trace")
        self.about = self._described()
        self.done: dict[str, list[Any]] = gone_on_with(args.out, self.about, self.trace)

    def _described(self) -> dict[str, Any]:
        """Return what has to be the same for samples to belong together."""
        planned = self.subject.planned
        return {
            "bundle_id": planned.bundle.manifest.bundle_id,
            "options": self.options,
            "workload": asdict(self.workload),
            "num_slots": present_settings(planned)["num_slots"],
            "settings": [setting.options for setting in self.settings()],
        }

    def settings(self) -> list[Candidate]:
        """What stands first, then what differs from it in one thing each."""
        planned = self.subject.planned
        plan, tier = planned.plan, planned.config.tier
        smaller = int(0.6 * plan.num_slots) * plan.slot_bytes
        tiers = sorted((t for t in planned.bundle.manifest.experts.tiers if t < tier and t != BF16), reverse=True)
        changes: list[dict[str, Any]] = [
            {}, {"eviction": "lru"}, {"expert_memory": smaller}, {"read_chunk": 4 * _MIB, "io_threads": 4},
            *([{"threads": self.args.threads - 1}] if self.args.threads > 1 else []),
            *({"tier": each} for each in tiers), *({"policy": each} for each in self.args.policies),
        ]  # fmt: skip
        return [Candidate.of(each) for each in changes]

    def job(self, kind: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Do a job in a process of its own."""
        job = {"bundle": str(self.args.bundle), "options": self.options | options, "workload": asdict(self.workload)}
        return require(run_job({**job, "kind": kind, **more}, _PATIENCE_S), f"{kind} {options}")

    def steps(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (name, kind of job, options) of everything there is to do, round after round."""
        settings = [setting.options for setting in self.settings()]
        tiers = [{"tier": each["tier"]} for each in settings if "tier" in each]
        fewer = [{"threads": each["threads"]} for each in settings if "threads" in each]
        for options in (each for each in settings if says_otherwise(each)):
            yield _name("0", "rehearse", options), "rehearse", options
        for number in range(self.args.rounds):
            yield f"{number} reads", "reads", {}
            probes = [("speed", each) for each in ({}, *tiers, *fewer)]
            steps = [*probes, *(("measure", each) for each in settings)]
            shift = number * len(steps) // self.args.rounds
            for kind, options in [*steps[shift:], *steps[:shift]]:
                yield _name(str(number), kind, options), kind, options

    def run(self) -> bool:
        """Do what is left, as far as the time goes; return whether all of it is done."""
        started = time.monotonic()
        if not self.trace.exists():
            self._record()
        for name, kind, options in self.steps():
            if name in self.done:
                continue
            longest = max((each[0] for each in self.done.values()), default=0.0)
            if time.monotonic() - started + longest > self.args.seconds:
                return False
            begun = time.monotonic()
            points = {"points": [(_MIB, 8), (4 * _MIB, 4)]} if kind == "reads" else {}
            behind = {"resident": True} if kind == "measure" else {}
            said = self.job(kind, options, **points, **behind)
            said.pop("answers", None)
            self.done[name] = [round(time.monotonic() - begun, 2), said, round(checksum_rate(), 4)]
            self.write({})
        return True

    def write(self, more: Mapping[str, Any]) -> None:
        """Write the file: what was done so far, and what follows from it."""
        write_whole(self.args.out, json.dumps({"about": self.about, "done": self.done, **more}).encode())

    def _record(self) -> None:
        answers = self.job("measure", {})["answers"]
        texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(self.workload.prompts, answers, strict=True)]
        self.job("trace", {}, texts=texts, trace=str(self.trace))

    def found(self, kind: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what every round said of something."""
        tail = _name("", kind, options) if kind != "reads" else " reads"
        return [said for name, (_, said, _) in self.done.items() if name.endswith(tail)]


def says_otherwise(options: Mapping[str, Any]) -> bool:
    """Whether a setting changes what is said."""
    return bool(options.keys() & {"policy", "tier"})


def _name(number: str, kind: str, options: Mapping[str, Any]) -> str:
    return f"{number} {kind} {json.dumps(options, sort_keys=True)}"


def gone_on_with(path: Path, about: dict[str, Any], trace: Path) -> dict[str, Any]:
    """Return the samples of a file that is about the same; one about something else is set aside, its trace removed."""
    if not path.exists():
        trace.unlink(missing_ok=True)
        return {}
    held = json.loads(path.read_text(encoding="utf-8"))
    was = held.get("about", {})
    changed = [name for name, value in about.items() if was.get(name) != value]
    if not changed:
        done: dict[str, Any] = held["done"]
        return done
    aside = path.with_suffix(".old.json")
    path.replace(aside)
    trace.unlink(missing_ok=True)
    print(f"{path}: other {', '.join(changed)} than now, so that its samples do not belong to these: begun anew")
    print(f"what was there is in {aside}")
    return {}


def speeds_of(bench: Bench, tier: int) -> ComputeSpeeds:
    """Return what every round probed, as `hobbit tune` takes it."""
    pairs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for setting in bench.settings():
        options = setting.options
        if not options.keys() - {"threads", "tier"}:
            pair = (options.get("threads", bench.args.threads), options.get("tier", tier))
            pairs[pair] = bench.found("speed", options)
    left = {pair: iter(said) for pair, said in pairs.items() if said}
    rounds = min(len(pairs[pair]) for pair in left)
    return probe(lambda c: next(left[c.options["threads"], c.options["tier"]]), left, rounds=rounds)


def reads_of(bench: Bench) -> ReadTimes:
    """Return the samples of all rounds together, as one."""
    said = bench.found("reads", {})
    samples = said[0]["samples"]
    for number, (_, _, batches) in enumerate(samples):
        for place, batch in enumerate(batches):
            batch[1] = [spent for each in said for spent in each["samples"][number][2][place][1]]
    return ReadTimes.of_samples(samples)


def compare(bench: Bench) -> list[dict[str, Any]]:
    """Predict every setting from the first one, and hold that against what was measured."""
    planned = bench.subject.planned
    manifest, config = planned.bundle.manifest, planned.config
    calibration = read_calibration(bench.subject.path, manifest.model)
    replays = Replays(Trace(bench.trace), bench.workload, config.prefill_chunk, calibration)
    rounds = {
        setting: [Measurement.from_json(each, "measurement") for each in bench.found("measure", setting.options)]
        for setting in bench.settings()
    }
    base = sorted(rounds[Candidate()], key=lambda each: each.rate)
    tier_bytes = {tier: manifest.layout.tier_bytes(tier) for tier in planned.needs.slot_bytes}
    predictor = RatePredictor(
        present_settings(planned), tier_bytes, planned.plan.working_set, typical(base), replays,
        reads_of(bench), speeds_of(bench, config.tier),
    )  # fmt: skip
    for setting in rounds:
        for told in bench.found("rehearse", setting.options):
            predictor.know(setting, Rehearsal.from_json(told).reads)
    own, stood, rows = predictor.rate(Candidate()), median(each.rate for each in base), []
    differ = (base[-1].rate / base[0].rate - 1) / 2
    for setting, measured in rounds.items():
        rate, most = predictor.rate(setting), doubt(predictor, setting, differ)
        if not measured or rate is None or not own:
            continue
        rates = [each.rate for each in measured]
        predicted = rate / own * stood
        rows.append({
            "setting": setting.options, "rounds": [round(each, 3) for each in rates], "measured": median(rates),
            "predicted": predicted, "doubt": most, "error": predicted / median(rates) - 1,
        })  # fmt: skip
    return rows


def main() -> None:
    """Run, and print the table once every setting was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=Path, required=True, help="JSON list of token ids, which prompts are cut from")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=8)
    parser.add_argument("--gen-tokens", type=int, default=24)
    parser.add_argument("--policies", nargs="*", default=["skip", "hobbit", "mobile", "cache-prior", "max-rank"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time of this call")
    parser.add_argument("--out", type=Path, required=True, help="samples; gone on with where it exists")
    args = parser.parse_args()
    bench = Bench(args)
    bench.run()
    clocks = [clock for _, _, clock in bench.done.values()]
    if clocks:
        print(f"clock: {min(clocks):.2f} to {max(clocks):.2f}, median {median(clocks):.2f}")
    print(f"{len(bench.done)} of {sum(1 for _ in bench.steps())} done")
    if all(bench.found("measure", each.options) for each in bench.settings()):
        rows = compare(bench)
        bench.write({"predicted": rows})
        for row in rows:
            print(
                f"{Candidate.of(row['setting'])}: measured {row['measured']:.2f}, predicted {row['predicted']:.2f} "
                f"(± {100 * row['doubt']:.0f} %), error {100 * row['error']:+.1f} %, rounds {row['rounds']}"
            )


if __name__ == "__main__":
    main()
