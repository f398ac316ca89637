"""Goals that the comparison does not measure: five turns, the papers' policies, a base that stays in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

CONVERSATION = 0.7
"""Of the time of the version in which prompts washed out the cache."""
POLICIES = {"hobbit 8/2": 1.25, "base-resident": 1.5, "mobile": 1.5, "cache-prior": 1.8}
"""Over lossless of the same full tier, half of the experts in memory."""
BASE, BASE_KLD = 1.5, 0.02
_NAMES = {
    "hobbit 8/2": "HOBBIT, 8 and 2 bits",
    "base-resident": "a base of 2 bits, stand-ins for losses",
    "mobile": "MoBiLE",
    "cache-prior": "Cache-Prior, lambda 0.3",
}


def verdict(value: float, goal: float, text: str, *, most: bool = False) -> str:
    """Return a figure with whether it is at least (or at most) its goal; a miss is set in bold."""
    met = value <= goal if most else value >= goal
    return f"{text}, met" if met else f"**{text}, missed**"


def lines(results: Path, frontier: Path) -> Iterator[str]:
    """Yield the tables of these goals, from the newest files."""
    yield from _conversation(json.loads((results / "turns.json").read_text()))
    files = [json.loads(path.read_text()) for path in results.glob("policy_turns*.json")]
    yield from _policies(files)
    speed, kld = (
        json.loads((frontier / f"{name}.json").read_text()) for name in ("base-resident-speed", "base-resident")
    )
    yield from _base(speed, kld)


def _when(found: Row) -> str:
    return str(max(row["when"] for row in found["rows"]))


def _machine(found: Row) -> str:
    machine = found["machine"]
    return f"{machine['cpu']}, {machine['cpus']} cores, {machine['isa']}"


def _conversation(found: Row) -> Iterator[str]:
    settings, ratio = found["settings"], found["summary"]["this_over_other"]["all_turns_ms"]
    day = max(run["when"] for run in found["runs"])[:10]
    text = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
    yield ""
    yield (
        f"Five turns of {settings['prompt_tokens']:,} prompt tokens, S1 at a cap of {settings['cap_bytes'] / 1e6:.0f} "
        f"MB ({_machine(found)}, {day}): the time is to be at most {CONVERSATION} of that of the version before. "
        f"{verdict(ratio['median'], CONVERSATION, text, most=True)}."
    )


def _policies(files: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield (
        "Caption: policies over `lossless` of the same full tier and run, S1, half of the experts in memory "
        f"({'; '.join(dict.fromkeys(map(_machine, files)))}); of each the newest of "
        "`benchmarks/results/policy_turns*.json` that has it; milliseconds a token. *Of limit*: what the bytes of its "
        "misses take at the drive's rate, over the time."
    )
    yield ""
    columns = ("policy", "date", "commit", "goal", "over lossless", "bytes of lossless", "of limit")
    yield f"| {' | '.join((*columns, 'trunk', 'experts', 'wait', 'other'))} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for setting, goal in POLICIES.items():
        able = [(_when(found), found, row) for found in files for row in found["table"] if row["setting"] == setting]
        if not able:
            continue
        when, found, row = max(able, key=lambda each: each[0])
        plain = next(r for r in found["table"] if (r["setting"], r["tier"]) == ("lossless", row["tier"]))
        run = f"{when[:10]} | {(found['commit'] or '-')[:8]}"
        name = _NAMES[setting]
        name += f", {100 * row['second_passes']:.0f} % second passes" if row["second_passes"] else ""
        ratio = verdict(row["over_lossless"], goal, f"{row['over_lossless']:.2f}x")
        share = f"{row['mb_per_token'] / plain['mb_per_token']:.2f}"
        yield f"| {name} | {run} | {goal}x | {ratio} | {share} | {_profile(row)} |"
        yield f"| its lossless, {row['tier']} bits | {run} | - | 1 | 1 | {_profile(plain)} |"


def _profile(row: Row) -> str:
    limit = row["of_limit"]
    parts = [f"{row['ms_per_token'][name]:.1f}" for name in ("trunk", "experts", "read_wait", "other")]
    return " | ".join(["-" if limit is None else f"{100 * limit:.0f} %", *parts])


def _base(speed: Row, kld: Row) -> Iterator[str]:
    tok_s, losses = (
        {p["setting"]: p[what] for p in found["points"] if (p["tier"], p["memory"]) == (8, 0.5)}
        for found, what in ((speed, "tok_s"), (kld, "kld"))
    )
    said = []
    for name, title in (("base-resident", "with the default eviction"),
                        ("base-resident, its eviction", "with `--eviction rate-distortion`")):  # fmt: skip
        ratio = tok_s[name] / tok_s["lossless"]
        text = verdict(ratio, BASE, f"{ratio:.2f}x")
        said.append(
            f"{text}, {title}, KL divergence {verdict(losses[name], BASE_KLD, f'{losses[name]:.4f}', most=True)}"
        )
    yield ""
    yield (
        f"A base of two bits that stays, 8 bits, half of the experts in memory: at least {BASE}x of lossless at a KL "
        f"divergence of at most {BASE_KLD}. {'; '.join(said)}. Speed is of S1 with stand-ins for losses "
        f"({_machine(speed)}, {speed['day']}, commit {speed['commit'][:8]}), KL divergence of the bundled "
        "model: [policies-measured.md](policies-measured.md#a-base-of-two-bits-that-stays)."
    )
    yield ""
