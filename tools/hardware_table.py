"""docs/hardware.md: per feature, where it ran. Written from committed result files, never by hand.

    python tools/hardware_table.py            writes the page
    python tools/hardware_table.py --check    exits with 1 if it is out of date

Result files: benchmarks/results/hardware/*.json (`tools/hardware_run.py`), benchmarks/results/gpu_check_*.json
(`make gpu-check`), benchmarks/results/bringup/*.json (`tools/bringup_import.py`), benchmarks/results/gpu_compile.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marked_page
from hardware_features import COMPILERS, FEATURES, ON_A_GPU, PLACES
from hardware_run import read_result

from edge_runtime.base.sizes import format_size

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs/hardware.md", ROOT / "benchmarks/results"
NEVER = "never"
HEAD = """# Where each part has run

Written by `tools/hardware_table.py` from result files, never by hand. A cell says what came of a
feature's tests in a place: how many passed, or `never`. "Emulated" means that a CPU played the
part: it shows that results are right, not how fast they come, and not how real hardware behaves.
Nothing in this table is a claim about hardware whose column says `never`.
"""
_JETSON = ("Orin", "Jetson", "Thor")


@dataclass
class Column:
    """A place, and what is known of it.

    Attributes:
        title: of the column.
        where: the machine, the day, the commit; a line under the table.
        cells: by feature's name.
    """

    title: str
    where: str = NEVER
    cells: dict[str, str] = field(default_factory=dict)


def columns(results: Path) -> list[Column]:
    """Return the places in the page's order: those that are emulated, GPUs, Jetson boards."""
    found = [_place(results, place, title) for place, title in PLACES.items()]
    real = list(_gpus(results))
    gpus = [column for column in real if not any(word in column.title for word in _JETSON)]
    boards = [column for column in real if column not in gpus]
    return [*found, *(gpus or [Column("NVIDIA GPU")]), *(boards or [Column("Jetson")])]


def _place(results: Path, place: str, title: str) -> Column:
    path = results / "hardware" / f"{place}.json"
    if not path.exists():
        return Column(title)
    found = read_result(path)
    known, on = found["features"], dict[str, list[dict[str, Any]]]()
    for each in known.values():
        on.setdefault(_machine(each["machine"]), []).append(each)
    where = "; ".join(f"{machine}: {_when(rows)}" for machine, rows in sorted(on.items()))
    return Column(title, where, {name: cell(each) for name, each in known.items()})


def _when(rows: list[dict[str, Any]]) -> str:
    days = sorted({each["date"] for each in rows})
    commits = sorted({each["commit"] + (" with changes" if each["changed"] else "") for each in rows})
    return f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}, {_commits(commits)}"


def _commits(commits: list[str]) -> str:
    return f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"


def cell(found: dict[str, Any]) -> str:
    """Say what came of a check."""
    outcome, tests = found["outcome"], found.get("tests")
    if outcome == "failed":
        return "**failed**"
    if outcome == "skipped":
        return "skipped"
    skipped = f", {found['skipped']} skipped" if found.get("skipped") else ""
    return f"passed, {tests} tests{skipped}" if tests else "passed"


def _machine(machine: dict[str, Any]) -> str:
    memory = format_size(machine["memory_bytes"]) if machine.get("memory_bytes") else "unknown memory"
    return f"{machine['cpu'] or machine['machine']}, {machine['cpus']} CPUs, {memory}, {machine['kernel']}"


def _gpus(results: Path) -> Iterator[Column]:
    """Real GPUs: what `make gpu-check` wrote there, or the first owner of a board sent."""
    for path in sorted([*results.glob("gpu_check_*.json"), *results.glob("bringup/*.json")]):
        found = json.loads(path.read_text(encoding="utf-8"))
        check = found.get("gpu_check", found)
        if not check or check.get("emulated", True):
            continue
        where = f"{check['device']} ({check['arch']}), driver for CUDA {check['driver_cuda']}; {check['date']}"
        tree = f"{_commits([check.get('commit') or 'unknown'])}{' with changes' if check.get('changed') else ''}"
        yield Column(check["device"], f"{where}, {tree}; {path.relative_to(results.parent.parent)}", _parts(check))


def _parts(check: dict[str, Any]) -> dict[str, str]:
    """Return a cell for each feature that parts of `make gpu-check` show. What was left out of a part is counted."""
    left_out = sum(" left out: " in way for way in _ways(check))
    said = dict.fromkeys(check.get("passed", []), "passed") | dict.fromkeys(check.get("skipped", []), "skipped")
    if left_out and said.get("demo") == "passed":
        said["demo"] = f"passed, {left_out} of its ways left out"
    if failed := check.get("failed"):
        said[failed] = "**failed**"
    return {name: said[key] for key, names in ON_A_GPU.items() if key in said for name in names}


def _ways(check: dict[str, Any]) -> list[str]:
    """Return the ways in which the demo ran, and those it did not."""
    found = check.get("demo")
    return found if isinstance(found, list) else []


def page(results: Path = RESULTS) -> str:
    """Return the page."""
    found = columns(results)
    lines = [HEAD, "| feature | " + " | ".join(column.title for column in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for feature in FEATURES:
        cells = (column.cells.get(feature.name, NEVER) for column in found)
        lines.append(f"| {feature.title} | {' | '.join(cells)} |")
    lines += ["", "## Machines", "", "| place | machine, day, commit |", "|---|---|"]
    lines += [f"| {column.title} | {column.where} |" for column in found]
    lines += ["", "## What would show each feature", "", "| feature | command |", "|---|---|"]
    for feature in FEATURES:
        commands = dict.fromkeys(f"`{' '.join(command)}`" for command in feature.checks.values())
        lines.append(f"| {feature.title} | {', '.join(commands)} |")
    lines += ["", *_compiled(results), *_ENDING]
    return "\n".join(lines) + "\n"


def _compiled(results: Path) -> Iterator[str]:
    """Say for which GPUs the kernels were compiled, which needs none."""
    path = results / Path(COMPILERS).name
    if not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    by_compiler: dict[str, list[str]] = {}
    for each in found["results"]:
        by_compiler.setdefault(each["compiler"], []).append(each["arch"])
    said = [f"{compiler} for {', '.join(arches)}" for compiler, arches in sorted(by_compiler.items())]
    yield from ("The CUDA kernels were compiled, which needs no GPU:", "", *(f"- {each}" for each in said), "")


_ENDING = [
    "`python tools/hardware_run.py PLACE` runs the commands of a place and keeps what came of it.",
    "`make gpu-check` does it on a machine with an NVIDIA GPU. The first owner of a Jetson runs",
    "`hobbit bringup` ([jetson-bringup.md](../deploy/jetson-bringup.md)).",
]


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    return marked_page.write({PAGE: page()}, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
