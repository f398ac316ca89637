"""`python -m benchmarks.compare run|report`."""

from __future__ import annotations

import sys

from benchmarks.compare import report, run

if __name__ == "__main__":
    verbs = {"run": run.main, "report": report.main}
    usage = "usage: python -m benchmarks.compare run|report [--help]"
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(usage)
        sys.exit(0)
    if len(sys.argv) < 2 or sys.argv[1] not in verbs:
        sys.exit(usage)
    sys.exit(verbs[sys.argv[1]](sys.argv[2:]))
