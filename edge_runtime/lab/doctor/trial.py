"""One real inference on one backend, as a program of its own: a driver that crashes takes only this process with it.

    python -m edge_runtime.lab.doctor.trial BUNDLE BACKEND [tiny]

prints one JSON object. The logits are compared with those that the exporter stored, then some tokens are generated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.backends import backend_named
from edge_runtime.base.errors import HobbitError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.self_check import self_check
from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams

TOKENS = 16
_TINY = {"memory": "1GiB", "context": 64, "policy": "lossless"}


def try_backend(bundle: Path, backend: str, options: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Run a model on a backend.

    Args:
        bundle: of the model.
        backend: its name.
        options: further ones of the engine.
        env: HOBBIT_ variables in force.

    Returns:
        `state`: 'ran', 'missing' (this machine or version does not have the backend) or 'failed', with the reason in
        `why`; where it ran, what was compared and how fast it was.
    """
    try:
        found, settings = backend_named(backend)
        if missing := found.why_missing() or found.why_lacking(settings):
            return {"state": "missing", "why": missing.removeprefix(f"{backend}: ")}
        with Engine.open(bundle, backend=backend, self_check=False, environment=env, **options) as engine:
            checked = self_check(engine, Bundle.open(bundle), engine.parts.config.tier, context=engine.plan.context)
            prompt = [engine.spec.eos_token_ids[0] if engine.spec.eos_token_ids else 0, 1, 2, 3]
            most = min(TOKENS, engine.plan.context - len(prompt))
            report = engine.generate(prompt, SamplingParams(max_tokens=most, ignore_eos=True)).to_json()
            return {
                "state": "ran",
                "computes_with": engine.parts.fingerprint,
                "choices": report["choices"],
                "correlation": round(checked.correlation, 6),
                "expected_correlation": checked.limit,
                "tokens": report["timings"]["predicted_n"],
                "tok_s": report["timings"]["predicted_per_second"],
            }
    except HobbitError as err:
        return {"state": "failed", "why": str(err)}


def main(argv: list[str]) -> int:
    """Run one backend and print what came of it."""
    bundle, backend, is_tiny = Path(argv[0]), argv[1], argv[2:] == ["tiny"]
    result = try_backend(bundle, backend, _TINY if is_tiny else {}, {} if is_tiny else os.environ)
    sys.stdout.write(f"\n{json.dumps(result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
