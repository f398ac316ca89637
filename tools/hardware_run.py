"""Run what shows that features work on a kind of machine, and keep what came of it for docs/hardware.md.

    python tools/hardware_run.py x86                     everything of a place
    python tools/hardware_run.py cuda-emulated cuda-loop one feature; what is known of others stays
    python tools/hardware_run.py cuda-emulated --left    what has not passed on this tree: a run that was cut goes on

Writes benchmarks/results/hardware/PLACE.json, anew after every feature: the command, the outcome, how many tests ran,
the day, the machine, the commit, and whether the tree had changes on top of it. Nothing is written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hardware_features import FEATURES, PLACES, feature_named

from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.bringup.checkout import source_tree
from edge_runtime.telemetry.hardware import describe_hardware

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/hardware"
FORMAT = 1
_SAID = 400
_NO_SOURCES = (":!benchmarks/results", ":!docs", ":!CHANGELOG.md")


def main(arguments: list[str] | None = None) -> int:
    """Run the checks of a place; return 0 if none failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("place", choices=PLACES)
    parser.add_argument("features", nargs="*", choices=[[], *(f.name for f in FEATURES)], help="only these")
    parser.add_argument("--left", action="store_true", help="leave out what has passed on this tree")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    chosen = [feature_named(name) for name in options.features] or list(FEATURES)
    commands = {f.name: f.checks[options.place] for f in chosen if options.place in f.checks}
    path = options.out / f"{options.place}.json"
    result = read_result(path) if path.exists() else {"format": FORMAT, "place": options.place, "features": {}}
    rows: dict[str, dict[str, Any]] = result["features"]
    if options.left:
        commands = {name: command for name, command in commands.items() if not has_passed(rows.get(name), command)}
    known: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, command in commands.items():
        found = known[command] = known.get(command) or run(command) | {"machine": describe_machine()}
        rows[name] = found
        print(f"{name}: {found['outcome']}, {found['seconds']} s", flush=True)
        write_result(path, result)
    return any(found["outcome"] == "failed" for found in known.values())


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, whole or not at all: a run may be killed at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())


def has_passed(row: dict[str, Any] | None, command: tuple[str, ...]) -> bool:
    """Whether a command has passed on the tree as it is; results and pages of it may be newer.

    Args:
        row: what is known of a feature.
        command: that shows it.
    """
    if row is None or row["outcome"] != "passed" or row["command"] != " ".join(command) or row["changed"]:
        return False
    changed = ("git", "diff", "--quiet", row["commit"], "--", ".", *_NO_SOURCES)
    return subprocess.run(changed, cwd=ROOT, capture_output=True, check=False).returncode == 0


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        ValueError: it is not one of this tool's.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("place") not in PLACES:
        raise ValueError(f"{path}: expected a result of tools/hardware_run.py, format {FORMAT}. Run it again.")
    for row in found["features"].values():
        row.setdefault("machine", found.get("machine"))  # older files have one for all
    found.pop("machine", None)
    return found


def describe_machine() -> dict[str, Any]:
    """Say what this machine is, without its name."""
    found = describe_hardware(ROOT)
    return {name: found[name] for name in ("cpu", "machine", "cpus", "memory_bytes", "kernel")} | {
        "python": platform.python_version()
    }


def run(command: tuple[str, ...]) -> dict[str, Any]:
    """Run a command in the root of the repository; return what came of it."""
    before, start = tree(), time.monotonic()
    found = _run_tests(command[1:]) if command[0] == "pytest" else _run_script(command)
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    seconds = round(time.monotonic() - start)
    return {"command": " ".join(command), **found, "date": when, **before, "seconds": seconds}


def _run_tests(paths: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        suite = ET.parse(report).getroot().find("testsuite") if report.exists() else None
    if suite is None:
        return {"outcome": "failed", "tests": 0, "said": done.stdout[-_SAID:] + done.stderr[-_SAID:]}
    total, skipped, failed = (sum(int(suite.get(key, 0)) for key in keys) for keys in _COUNTED)
    outcome = "failed" if failed or done.returncode else "skipped" if skipped == total else "passed"
    return {"outcome": outcome, "tests": total - skipped, "skipped": skipped, "failed": failed}


_NOT_RUN = 2
_COUNTED = (("tests",), ("skipped",), ("failures", "errors"))


def _run_script(command: tuple[str, ...]) -> dict[str, Any]:
    """Run a script, which ends with 2 where it could not be run."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable}
    )
    said = (done.stdout + done.stderr)[-_SAID:]
    if done.returncode:
        return {"outcome": "skipped" if done.returncode == _NOT_RUN else "failed", "said": said}
    return {"outcome": "passed"}


def tree() -> dict[str, Any]:
    """Which commit is checked out, and whether anything was changed since."""
    found = source_tree(ROOT, paths=(".", *_NO_SOURCES))
    return {"commit": found["commit"] or "unknown", "changed": bool(found["changed"])}


if __name__ == "__main__":
    sys.exit(main())
