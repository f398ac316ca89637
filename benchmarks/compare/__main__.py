"""`python -m benchmarks.compare VERB`."""

from __future__ import annotations

import sys

from benchmarks.compare import goals, report, run

VERBS = {"run": run.main, "report": report.main, "goals": goals.main}
"""All but `run` write pages, and take `--check`."""

if __name__ == "__main__":
    usage = f"usage: python -m benchmarks.compare {'|'.join(VERBS)} [--help]"
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(usage)
        sys.exit(0)
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        sys.exit(usage)
    sys.exit(VERBS[sys.argv[1]](sys.argv[2:]))
