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

import hardware_gpu
import marked_page
from hardware_features import BY_USE, COMPILERS, FEATURES, PLACES, TRUNKS
from hardware_run import read_result
from hardware_speeds import speeds

from edge_runtime.base.sizes import format_size

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs/hardware.md", ROOT / "benchmarks/results"
NEVER = "never"
HEAD = """# Where each part has run

Written by `tools/hardware_table.py` from result files, never by hand. A cell says what came of a
feature's tests in a place, or `never`: how many passed, on which day, at which commit. What changed
in the code after that has not run there. "Emulated" means that a CPU played the part: it shows that
results are right, not how fast they come, and not how real hardware behaves. "By use, no tests": a
step of `hobbit bringup` that needs the feature passed there. "Quick": one case of each kernel, and
small sizes. Nothing in this table is a claim about hardware whose column says `never`.
"""
_JETSON = ("Orin", "Jetson", "Thor")
_EMULATED_ARM = """
`make arm-check` does more on emulated arm64 than the table has, and leaves no result file. It
installs the wheel in a Debian, streams the demo's experts through a cache that holds a part of
them, with the trunk of our own kernels, and compares the tokens with this machine's. Then the HTTP
service has to answer with the same text. ONNX Runtime's trunk and a cgroup's limit are not tried.
"""


@dataclass
class Column:
    """A place, and what is known of it.

    Attributes:
        title: of the column.
        where: the machine, the day, the commit; a line under the table.
        cells: by feature's name.
        has_gpu: what `make gpu-check` found there is among them.
    """

    title: str
    where: str = NEVER
    cells: dict[str, str] = field(default_factory=dict)
    has_gpu: bool = False

    @property
    def is_jetson(self) -> bool:
        """Whether it is a Jetson, by its name."""
        return _names_a_jetson(self.title)


def _names_a_jetson(name: str) -> bool:
    return any(word in name for word in _JETSON)


def columns(results: Path) -> list[Column]:
    """Return the places in the page's order: those that are emulated, other machines, GPUs, Jetson boards."""
    found = [_place(results, place, title) for place, title in PLACES.items()]
    real = list(_real(results))
    boards = [column for column in real if column.is_jetson]
    gpus = [column for column in real if column.has_gpu and not column.is_jetson]
    others = [column for column in real if not column.has_gpu and not column.is_jetson]
    return [*found, *others, *(gpus or [Column("NVIDIA GPU")]), *(boards or [Column("Jetson")])]


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


def _age(day: str, tree: dict[str, Any]) -> str:
    """When something ran, and what."""
    return f"{day} at {tree.get('commit') or 'unknown'}{' with changes' if tree.get('changed') else ''}"


def cell(found: dict[str, Any]) -> str:
    """Say what came of a check, and when."""
    return f"{_outcome(found)}; {_age(found['date'], found)}"


def _outcome(found: dict[str, Any]) -> str:
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


def _real(results: Path) -> Iterator[Column]:
    """Real machines: what `make gpu-check` wrote there, or the first owner of a board sent."""
    for path in sorted([*results.glob("gpu_check_*.json"), *results.glob("bringup/*.json")]):
        found = json.loads(path.read_text(encoding="utf-8"))
        check, name = found.get("gpu_check", found), path.relative_to(results.parent.parent)
        if check and check.get("emulated", True):
            check = None
        cells = _by_use(found) | (hardware_gpu.cells(check, _age(check["date"], check)) if check else {})
        if check:
            where = f"{hardware_gpu.machine(check)}; {check['date']}"
            tree = f"{_commits([check.get('commit') or 'unknown'])}{' with changes' if check.get('changed') else ''}"
            board = str(found.get("board", ""))
            title = board if _names_a_jetson(board) else check["device"]  # each Orin's GPU is called Orin
            yield Column(title, f"{where}, {tree}; {name}", cells, has_gpu=True)
        elif cells:
            days = sorted(step["ended"][:10] for step in found["steps"].values())
            yield Column(found["board"], f"{found['board']}; {_age(days[-1], found)}; {name}", cells)


def _by_use(found: dict[str, Any]) -> dict[str, str]:
    """Return a cell for each feature that a step of a bring-up needed; one that failed is said first."""
    cells: dict[str, str] = {}
    for name, step in found.get("steps", {}).items():
        outcome = {"passed": "by use, no tests", "failed": "**failed** in use"}.get(step["outcome"])
        if outcome is None:
            continue
        age = _age(step["ended"][:10], found)
        for feature in (*BY_USE.get(name, ()), *_of_the_trunk(name, step)):
            if outcome.startswith("**") or feature not in cells:
                cells[feature] = f"{outcome}: `{name}`; {age}"
    return cells


def _of_the_trunk(name: str, step: dict[str, Any]) -> Iterator[str]:
    """What a benchmark on the CPU says it used."""
    if name in ("bench cpu", "bench cpu streamed"):
        yield from TRUNKS.get(step.get("trunk", ""), ())


def page(results: Path = RESULTS) -> str:
    """Return the page."""
    found = columns(results)
    lines = [HEAD, "| feature | " + " | ".join(column.title for column in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for feature in FEATURES:
        cells = (column.cells.get(feature.name, NEVER) for column in found)
        lines.append(f"| {feature.title} | {' | '.join(cells)} |")
    lines += [_EMULATED_ARM.rstrip("\n"), "", "## Machines", "", "| place | machine, day, commit |", "|---|---|"]
    lines += [f"| {column.title} | {column.where} |" for column in found]
    lines += [*speeds(results), "", "## What would show each feature", "", "| feature | command |", "|---|---|"]
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
