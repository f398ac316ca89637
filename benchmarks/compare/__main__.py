"""`python -m benchmarks.compare run|report`."""

from __future__ import annotations

import sys

from benchmarks.compare import report, run

if __name__ == "__main__":
    verbs = {"run": run.main, "report": report.main}
    if len(sys.argv) < 2 or sys.argv[1] not in verbs:
        sys.exit("usage: python -m benchmarks.compare run|report [--help]")
    sys.exit(verbs[sys.argv[1]](sys.argv[2:]))
