"""What explains a miss: tables of where the time goes in rows that miss a goal of the comparison. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.compare.figures import above_drive_ms, limits_ms
from benchmarks.compare.other_goals import Row
from benchmarks.compare.plot import regime
from benchmarks.compare.workload import LOSSLESS, OURS, RESIDENT

LLAMA = "llama.cpp"
INT4 = "-int4"
"""How the same model with an int4 trunk is called."""


def cells_of(row: Row) -> list[Mapping[str, Any]]:
    """Return the row's measured cells of ours without losses."""
    return [c for c in row["cells"] if (c["side"], c["variant"]) == (OURS, LOSSLESS) and c.get("measured")]


def name_of(row: Row) -> list[str]:
    """Return the first columns of a row of ours: processor, model, memory."""
    machine = cells_of(row)[0]["machine"]
    return [machine["isa"] + (" chosen" if machine.get("best_isa") else ""), row["model"], regime(row)]


def in_memory(missed: Sequence[Row], found: Sequence[Row]) -> Iterator[str]:
    """Yield what a token touches, and at which rate, where llama.cpp decodes faster and an int4 trunk was measured too.

    Args:
        missed: rows that miss their goal of decoding.
        found: all rows of ours.
    """
    int4 = {(row["machine"], row["model"]): row for row in found if row["regime"] == RESIDENT}
    pairs = [(row, int4.get((row["machine"], row["model"] + INT4))) for row in missed if row["regime"] == RESIDENT]
    both = [(row, other) for row, other in pairs if other and other["peers"].get(LLAMA, {}).get("decode")]
    if not both:
        return
    yield ""
    yield (
        "Caption: everything in memory, where llama.cpp decodes faster: MB of weights that a token touches, and how "
        "many GB of them a second, with an int8 and with an int4 trunk, whose weights have as many bits as those of "
        "llama.cpp's file. Its rate is taken from the bytes of the int4 trunk."
    )
    yield ""
    yield (
        "| processor | model | int8: touched, MB | ours, GB/s | llama.cpp, GB/s | ratio, decode | int4: touched, MB "
        "| ours, GB/s | llama.cpp, GB/s | ratio, decode |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row, other in both:
        small = _touched(other)
        columns = [*_rates(row, small), *_rates(other, small)]
        yield f"| {' | '.join([*name_of(row)[:2], *columns])} |"


def _touched(row: Row) -> float:
    """Bytes of weights a token touches."""
    found = [c["measured"]["decode"] for c in cells_of(row)]
    return statistics.median(decode["touched_bytes"] / decode["n"] for decode in found)


def _rates(row: Row, theirs: float) -> list[str]:
    touched, ours, peer = _touched(row), row["lossless"]["decode"]["tok_s"], row["peers"][LLAMA]["decode"]["tok_s"]
    return [f"{touched / 1e6:.0f}", f"{touched * ours / 1e9:.1f}", f"{theirs * peer / 1e9:.1f}", f"{ours / peer:.2f}x"]


def of_tokens(missed: Sequence[Row]) -> Iterator[str]:
    """Yield where the time of a token goes."""
    if not missed:
        return
    yield ""
    yield (
        "Caption: where a goal of decoding is missed: milliseconds a token, medians of the same cells. *Wait* is what "
        "reads are not hidden behind the rest. *Drive* and *bus*: the least that the bytes which had to come, and the "
        "weights touched, take at the rates probed. What a token takes above *drive*: *slower*, the drive gave less "
        "than in its probes; *in vain*, it read what was not used; *idle*, it had nothing to read."
    )
    yield ""
    yield (
        "| processor | model | memory | token | trunk | experts | wait | other "
        "| drive | slower | in vain | idle | bus |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in missed:
        took, (drive, bus), above = _profile(row, "decode"), _least(row, "decode"), _above(row)
        yield f"| {' | '.join([*name_of(row), *took, drive, *above, bus])} |"


def of_prompts(missed: Sequence[tuple[Row, str, float]]) -> Iterator[str]:
    """Yield where the time of a prompt goes.

    Args:
        missed: rows, which of their prompts missed its goal, and the milliseconds the goal allows.
    """
    if not missed:
        return
    yield ""
    yield (
        "Caption: where a goal of prompts is missed: milliseconds of the prompt of 128 tokens, medians of the same "
        "cells; the *goal*, from the peer's time; and what its bytes take at the *drive*'s rate. *Drive* less *wait* "
        "is what of the reads ran behind the rest."
    )
    yield ""
    yield "| processor | model | memory | prompt | goal | took | trunk | experts | wait | other | drive |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row, stage, allowed in missed:
        which = "later" if stage == "prefill" else "first"
        columns = [which, f"{allowed:.0f}", *_profile(row, stage), _least(row, stage)[0]]
        yield f"| {' | '.join([*name_of(row), *columns])} |"


def _profile(row: Row, stage: str) -> list[str]:
    """Return what a token (or a prompt) took, and part by part."""
    return _medians([[c["measured"][stage]["ms"], *_phases(c, stage)] for c in cells_of(row)], row, stage)


def _least(row: Row, stage: str) -> tuple[str, str]:
    """Return the least its bytes take of the drive, and its weights of the bus."""
    drive, bus = _medians([list(_limits(c, stage)) for c in cells_of(row)], row, stage)
    return drive, bus


def _above(row: Row) -> list[str]:
    """Return the parts of a token above the drive's limit; of a row that reads nothing there are none."""
    found = [above_drive_ms(c) for c in cells_of(row)]
    known = [list(each) for each in found if each]
    return _medians(known, row, "decode") if len(known) == len(found) else ["-"] * 3


def _medians(parts: Sequence[Sequence[float]], row: Row, stage: str) -> list[str]:
    """Return the medians of columns of milliseconds: of a token while decoding, otherwise of the prompt."""
    units = [c["measured"][stage]["n"] if stage == "decode" else 1 for c in cells_of(row)]
    columns = zip(*([ms / n for ms in each] for each, n in zip(parts, units, strict=True)), strict=True)
    digits = 1 if stage == "decode" else 0
    return [f"{round(statistics.median(column), digits) + 0.0:.{digits}f}" for column in columns]  # no -0.0


def _phases(cell: Mapping[str, Any], stage: str) -> list[float]:
    found = cell["measured"][stage]["phase_ms"]
    # before the native trunk its time was recorded as that of graphs
    trunk = sum(ms for name, ms in found.items() if name not in ("experts", "read_wait", "other"))
    return [trunk, found["experts"], found["read_wait"], found["other"]]


def _limits(cell: Mapping[str, Any], stage: str) -> tuple[float, float]:
    measured = cell["measured"] | {"decode": cell["measured"][stage]}
    return limits_ms({**cell, "measured": measured})
