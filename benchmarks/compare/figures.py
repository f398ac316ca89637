"""From cells to figures: medians over rounds, peers at their best, ratios, how far we are from the limit. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compare.one_run import Counted, counted
from benchmarks.compare.results import cell_of
from benchmarks.compare.runs import bus_ceiling, with_bus_of_run
from benchmarks.compare.workload import HOBBIT, LOSSLESS, OURS, REGIMES, RESIDENT, Cell, rate

Entry = Mapping[str, Any]
_STAGES = ("decode", "prefill", "prefill_cold")
READY_SINCE = "2026-11-30T07:02:36+00:00"
"""Since then our cells begin where the service is READY. Before, memory was still being taken during the first prompt
under a cap; with everything in memory other prompts came first."""


def latest(entries: Iterable[Entry]) -> dict[Cell, Entry]:
    """Return the last object of every cell, in the order of measuring: what is measured again replaces what was."""
    found: dict[Cell, Entry] = {}
    for entry in entries:
        cell = cell_of(dict(entry))
        if cell is not None:
            found.pop(cell, None)
            found[cell] = entry
    return found


def rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return one row for each machine, model and regime: every peer's best mode, the strongest of all, and ours.

    Decode and prefill of a peer may come from different modes, and those of the strongest from different peers: each is
    the best there is. All are of the run of our newest commit; where it lacks a side, `stand_ins` names it.
    """
    cells = latest(with_bus_of_run(entries))
    found = []
    for machine in sorted({cell.machine for cell in cells}):
        for model in sorted({cell.model for cell in cells if cell.machine == machine}):
            for regime in REGIMES:
                asked = (machine, model, regime)
                here = {cell: e for cell, e in cells.items() if (cell.machine, cell.model, cell.regime) == asked}
                if here:
                    found.append(_row(model, regime, counted(here)) | {"machine": machine})
    return found


def _row(model: str, regime: str, run: Counted) -> dict[str, Any]:
    here, old, all_tried = run.cells, run.stand_ins, {**run.earlier, **run.cells}
    row: dict[str, Any] = {"model": model, "regime": regime, "cap_bytes": next(iter(here.values()))["cap_bytes"]}
    row |= {"cells": list(here.values()), "stand_ins": dict(run.stand_ins), "earlier": len(run.earlier)}
    names = sorted({cell.side for cell in here if cell.side != OURS})
    row["peers"] = {name: _peer(here, name, earlier=name in old) for name in names}
    row["peer"] = {stage: _strongest(row["peers"].values(), stage) for stage in _STAGES}
    row["modes"] = {
        f"{name} {mode}": _mode(here if mode in now else all_tried, name, mode)
        | {"earlier": mode not in now or name in old}
        for name in names
        for now in [{cell.variant for cell in here if cell.side == name}]
        for mode in sorted({cell.variant for cell in all_tried if cell.side == name})
    }
    for name, variant in (("lossless", LOSSLESS), ("hobbit", HOBBIT)):
        row[name] = _ours(_measured(here, OURS, variant), row["peer"], earlier=f"{OURS} {variant}" in old)
    if row["lossless"] and row["hobbit"]:
        row["hobbit"]["against_lossless"] = _ratio(row["hobbit"]["decode"]["tok_s"], row["lossless"]["decode"]["tok_s"])
    errors = {f"{c.side} {c.variant} round {c.round}": e["error"] for c, e in here.items() if e.get("error")}
    return row | {"errors": errors}


def _peer(here: Mapping[Cell, Entry], name: str, *, earlier: bool) -> dict[str, Any]:
    """Return a peer's best mode at each stage."""
    cells = [cell for cell, entry in here.items() if cell.side == name and entry.get("measured")]
    last = max((cell.round for cell in cells), default=0)
    # a mode left out after the first round was slower there; it must not win by a single lucky round
    lasting = {f"{name} {cell.variant}": _measured(here, name, cell.variant) for cell in cells if cell.round == last}
    found = {stage: _best(lasting, stage) for stage in _STAGES}
    return {stage: best and best | {"earlier": earlier} for stage, best in found.items()}


def _strongest(peers: Iterable[Mapping[str, Any]], stage: str) -> dict[str, Any] | None:
    found = [dict(peer[stage]) for peer in peers if peer[stage]]
    return max(found, key=lambda each: float(each["tok_s"]), default=None)


def _measured(here: Mapping[Cell, Entry], side: str, variant: str) -> list[Entry]:
    return [e for cell, e in here.items() if (cell.side, cell.variant) == (side, variant) and e.get("measured")]


def median_of(cells: Sequence[Entry], value: Callable[[Entry], float | None]) -> float | None:
    """Return the median of a figure over cells; None if no cell has it."""
    found = [number for cell in cells if (number := value(cell)) is not None]
    return statistics.median(found) if found else None


def _tok_s(cells: Sequence[Entry], stage: str) -> dict[str, Any]:
    rates = [rate(cell["measured"][stage]) for cell in cells]
    return {"tok_s": statistics.median(rates), "low": min(rates), "high": max(rates), "n": len(rates)}


def read_per_token(cell: Entry) -> float | None:
    """Bytes the kernel fetched a decoded token."""
    decode = cell["measured"]["decode"]
    return None if decode["read_bytes"] is None else decode["read_bytes"] / decode.get("read_passes", decode["n"])


def _best(by_mode: Mapping[str, Sequence[Entry]], stage: str) -> dict[str, Any] | None:
    able = {mode: cells for mode, cells in by_mode.items() if all(stage in cell["measured"] for cell in cells)}
    if not able:
        return None
    found = {mode: _tok_s(cells, stage) for mode, cells in able.items()}
    mode = max(found, key=lambda name: found[name]["tok_s"])
    cells = by_mode[mode]
    return found[mode] | {
        "mode": mode,
        "read_bytes": median_of(cells, read_per_token),
        "peak_bytes": median_of(cells, lambda cell: cell.get("peak_bytes")),
    }


def _mode(here: Mapping[Cell, Entry], name: str, mode: str) -> dict[str, Any]:
    cells = _measured(here, name, mode)
    errors = [e["error"] for c, e in here.items() if (c.side, c.variant) == (name, mode) and e.get("error")]
    return {
        "decode": _tok_s(cells, "decode") if cells else None,
        "prefill": _tok_s(cells, "prefill") if cells and "prefill" in cells[0]["measured"] else None,
        "error": errors[0] if errors else None,
    }


def _ours(cells: Sequence[Entry], peer: Mapping[str, Any], *, earlier: bool) -> dict[str, Any] | None:
    if not cells:
        return None
    found: dict[str, Any] = {"earlier": earlier}
    for stage in _STAGES:
        found[stage] = _tok_s(cells, stage)
        found[stage]["against_peer"] = _ratio(found[stage]["tok_s"], peer[stage] and peer[stage]["tok_s"])
    return found | {
        "read_bytes": median_of(cells, read_per_token),
        "peak_bytes": median_of(cells, lambda cell: cell.get("peak_bytes")),
        "hit_rate": median_of(cells, hit_rate),
        "share_of_drive": median_of(cells, share_of_drive),
        "share_of_limit": median_of(cells, share_of_limit),
        "limited_by": limited_by(cells[-1]),
        "commit": cells[-1].get("commit"),
        "other_percent": median_of(cells, other_percent),
        "before_ready": any(cell["regime"] != RESIDENT and str(cell["when"]) < READY_SINCE for cell in cells),
    }


def hit_rate(cell: Entry) -> float | None:
    """Hits over lookups of the measured steps."""
    e = cell["measured"]["decode"]["experts"]
    lookups = e["hits"] + e["late"] + e["misses"]
    return e["hits"] / lookups if lookups else None


def drive_ceiling(cell: Entry) -> float | None:
    """What the drive gave around the measured steps; before the cell, if it was not probed there.

    A drive that gave more while the steps ran can do that: a probe is short, and drives change from minute to minute.
    """
    decode = cell["measured"]["decode"]
    around = decode.get("drive_gbps")
    probed = statistics.fmean(around) if around else cell.get("drive_gbps")
    reached = decode.get("experts", {}).get("read_gbps") or 0.0  # peers do not say
    return max(probed, reached) if probed else probed


def share_of_drive(cell: Entry) -> float | None:
    """Read bandwidth while reads were under way over the drive's ceiling, both of this cell."""
    got, ceiling = cell["measured"]["decode"]["experts"]["read_gbps"], drive_ceiling(cell)
    return got / ceiling if got and ceiling else None


def limits_ms(cell: Entry) -> tuple[float, float]:
    """Least milliseconds of the measured steps: bytes needed at the drive's ceiling, bytes touched at the bus's."""
    decode, ceiling = cell["measured"]["decode"], drive_ceiling(cell)
    needed = decode.get("needed_bytes", decode["experts"]["bytes_read"])
    return (
        needed / ceiling / 1e6 if ceiling else 0.0,
        decode["touched_bytes"] / bus_ceiling(cell) / 1e6,
    )


def above_drive_ms(cell: Entry) -> tuple[float, float, float] | None:
    """Milliseconds above the drive's limit: reads slower than probed, reads in vain, and no read under way.

    With the first of `limits_ms` they add up to the time the steps took. None: nothing was read.
    """
    decode, ceiling = cell["measured"]["decode"], drive_ceiling(cell)
    count, rate = decode["experts"]["bytes_read"], decode["experts"]["read_gbps"]
    if not (count and rate and ceiling):
        return None
    reading = count / rate / 1e6
    needed = decode.get("needed_bytes", count)
    return reading - count / ceiling / 1e6, (count - needed) / ceiling / 1e6, decode["ms"] - reading


def share_of_limit(cell: Entry) -> float | None:
    """The longer of the two limits over the time the steps took: 1 is the best any program can do with these misses."""
    milliseconds = cell["measured"]["decode"]["ms"]
    if drive_ceiling(cell) is None and cell["measured"]["decode"]["experts"]["bytes_read"]:
        return None
    return max(limits_ms(cell)) / milliseconds if milliseconds else None


def limited_by(cell: Entry) -> str:
    """Which limit is the longer one."""
    drive, bus = limits_ms(cell)
    return "drive" if drive > bus else "bus"


def other_percent(cell: Entry) -> float | None:
    """Time outside trunk, experts and read wait, in percent of the measured steps."""
    phases = cell["measured"]["decode"]["phase_ms"]
    total = sum(phases.values())
    return 100 * phases["other"] / total if total else None


def _ratio(ours: float, theirs: float | None) -> float | None:
    return ours / theirs if theirs else None
