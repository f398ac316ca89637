"""A process that speaks without end, for elastic_pair.py: a line of JSON for every request, at the end.

While it speaks it writes nothing: a pipe that nobody reads meanwhile would be full, and it would stand still.
"""

from __future__ import annotations

import json
import sys
import time

from edge_runtime import Engine, SamplingParams


def main(bundle: str, seconds: float, options: dict) -> None:
    with Engine.open(bundle, self_check=False, context=256, threads=1, **options) as engine:
        plan = engine.plan
        ready = {"ready": plan.num_slots, "all": plan.all_experts, "all_bytes": plan.all_experts * plan.slot_bytes}
        print(json.dumps(ready), flush=True)
        sys.stdin.readline()
        lines: list[dict] = []
        started, number = time.monotonic(), 0
        while (now := time.monotonic() - started) < seconds:
            params = SamplingParams(max_tokens=16, temperature=1.0, seed=number % 8, ignore_eos=True)
            report = engine.generate([5 + number % 8, 6, 7, 8], params)
            rate = 16 / (time.monotonic() - started - now)
            lines.append({
                "at": now, "rate": rate, "number": number, "ids": report.token_ids, "slots": engine.plan.num_slots,
                "elastic": report.memory["elastic"], "read": report.experts["bytes_read"],
            })  # fmt: skip
            number += 1
        for line in lines:
            print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]))
