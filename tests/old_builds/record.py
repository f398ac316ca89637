"""Run by an early build of this repository: write down what it says, and the state folder it leaves behind.

usage: python record.py bundle|state BUNDLE OUT

`bundle` asks a build for greedy tokens and logits at two tiers. `state` does what fills a state folder: it verifies a
bundle, runs it with a warm start, types in a chat and sends a part to a server. Both write OUT/said.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

PROMPT, TOKENS, CONTEXT, MEMORY = "hobbit", 24, 64, "400MiB"
TIERS = (8, 4)
TYPED = ["what is a second breakfast?", "two\nlines"]
SERVER, PART, MARK = "http://192.0.2.1/models/micro", "experts/layer_000.hbx", '"mark-of-the-server"'


def say_tokens(bundle: Path, out: Path) -> dict[str, object]:
    """Greedy tokens by tier; logits go into a file of their own."""
    from edge_runtime import Engine, SamplingParams

    tokens, logits = {}, {}
    for tier in TIERS:
        with Engine.open(bundle, memory=MEMORY, context=CONTEXT, tier=tier) as engine:
            report = engine.generate(PROMPT, SamplingParams(max_tokens=TOKENS, temperature=0))
            tokens[str(tier)] = report.token_ids
            logits[str(tier)] = engine.logits(engine.tokenizer.encode(PROMPT) + report.token_ids)
    np.savez_compressed(out / "logits.npz", **logits)
    return {"prompt": PROMPT, "token_ids": tokens}


def fill_state(bundle: Path, out: Path) -> dict[str, object]:
    """Everything that this build remembers between runs."""
    from edge_runtime import Engine, SamplingParams
    from edge_runtime.bundle.bundle import Bundle
    from edge_runtime.cli.chat.history import HistoryFile
    from edge_runtime.service.ops.warmup import verify_once
    from edge_runtime.transfer.sent import Sent

    opened = Bundle.open(bundle)
    sent = Sent(SERVER, opened.manifest.bundle_id)
    sent.add(PART, MARK)
    for text in TYPED:
        HistoryFile.of_user().add(text)
    verify_once(opened, print)
    with Engine.open(bundle, memory=MEMORY, context=CONTEXT, tier=8, warm_start="tales") as engine:
        engine.generate(PROMPT, SamplingParams(max_tokens=TOKENS, temperature=0))
    spec = opened.manifest.model
    return {
        "bundle_id": opened.manifest.bundle_id, "shape": [spec.num_layers, spec.num_experts], "typed": TYPED,
        "server": SERVER, "part": PART, "mark": MARK, "workload": "tales",
    }  # fmt: skip


def main() -> None:
    """Record one of the two."""
    what, bundle, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(out / "state")
    said = (say_tokens if what == "bundle" else fill_state)(bundle, out)
    (out / "said.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
