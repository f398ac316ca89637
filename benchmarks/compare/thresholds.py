"""HOBBIT's thresholds for a bundle: 67th and 97th percentile of its scores, from the export or measured on a text."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.calibration import read as read_calibration

_TOKENS = 512


def hobbit_policy(bundle: Path, text: Path, tier: int) -> tuple[str, str]:
    """Return the policy as an option, and where its thresholds come from.

    Args:
        bundle: ours.
        text: the checkpoint's stream; only its second half is used, which no measured prompt comes from.
        tier: the full tier.

    Raises:
        SystemExit: `hobbit calibrate` failed.
    """
    model = Bundle.open(bundle).manifest.model
    if read_calibration(bundle, model).score_quantiles is not None:
        return "hobbit:quantiles=true", "the bundle's calibration"
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(second_half(text.read_text(encoding="utf-8")))
        file.flush()
        argv = [sys.executable, "-m", "edge_runtime", "calibrate", str(bundle), "--text", file.name, "--json"]
        argv += ["--tokens", str(_TOKENS), "--tier", str(tier), "--context", str(_TOKENS), "--no-self-check"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{bundle}: hobbit calibrate failed: {done.stderr.strip()[-500:]}")
    return str(json.loads(done.stdout)["hobbit"]), f"hobbit calibrate on {_TOKENS} tokens of {text.name}, second half"


def second_half(text: str) -> str:
    """Return a text from the first blank after its middle on."""
    middle = len(text) // 2
    blank = text.find(" ", middle)
    return text[blank if blank >= 0 else middle :]
