"""What a sweep runs: `memory=1GiB,2GiB policy=lossless,hobbit` as every combination of the values. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from edge_runtime.base.errors import RequestError, did_you_mean
from edge_runtime.config.options import BY_NAME, ENGINE_OPTIONS
from edge_runtime.config.profiles import load_profile

MAX_POINTS = 64
OWN = ("prompt-tokens", "gen-tokens", "cache", "temperature")
"""Flags of the benchmark itself that may be swept."""

Point = dict[str, str]
"""Flag without dashes to value."""


def parse_points(items: Sequence[str]) -> list[Point]:
    """Return every combination, the last item's values changing fastest.

    Raises:
        RequestError: no option of that name, a value it does not take, or more combinations than may be.
    """
    axes = dict(_axis(item) for item in items)
    if len(axes) < len(items):
        raise RequestError("sweep: an option is given twice. Put all of its values into one item.")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_POINTS:
        raise RequestError(f"sweep: {count} combinations are more than {MAX_POINTS}. Leave some out.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _axis(item: str) -> tuple[str, list[str]]:
    name, equals, rest = item.partition("=")
    if not equals:
        raise RequestError(f"sweep: expected NAME=VALUE,..., got {item!r}. Write the bundle before --sweep.")
    flag = name.strip().replace("_", "-")
    engine = {option.dashed: option.name for option in ENGINE_OPTIONS}
    if flag not in engine and flag not in OWN:
        known = [*engine, *OWN]
        raise RequestError(f"sweep: no option {flag!r} to sweep.{did_you_mean(flag, known)}")
    values = split_values(rest)
    for value in values:
        if flag in engine and value != "auto":
            check = load_profile if flag == "profile" else BY_NAME[engine[flag]].kind.convert
            check(value, f"sweep: {flag}")
    return flag, values


def split_values(text: str) -> list[str]:
    """Split at commas, but not between the parameters of one value: ``hobbit:t1=0.6,t2=0.9`` is one."""
    values: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        is_parameter = "=" in part and ":" not in part.partition("=")[0]
        if is_parameter and values:
            values[-1] += f",{part}"
        else:
            values.append(part)
    if not all(values) or len(set(values)) < len(values):
        raise RequestError(f"sweep: expected different values, separated by commas, got {text!r}.")
    return values


def flags_of(point: Mapping[str, str]) -> list[str]:
    """Return a point as flags of `hobbit bench`; switches in their two forms."""
    words: list[str] = []
    for name, value in point.items():
        option = BY_NAME.get(name.replace("-", "_"))
        if option is not None and option.kind.metavar == "on|off":
            words.append(f"--{name}" if option.kind.convert(value, name) else f"--no-{name}")
        else:
            words += [f"--{name}", value]
    return words
