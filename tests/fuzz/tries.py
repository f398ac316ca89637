"""One hostile bundle made, and one command tried on it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from bundle_copies import copy_of
from fuzz.bundles import KINDS
from fuzz.trial import Ending, attempt

COMMANDS = (
    ("run", "--prompt", "import os\n", "--max-tokens", "2", "--temperature", "0"),
    ("run", "--prompt", "x = [1, 2]", "--max-tokens", "2", "--expert-memory", "3MiB"),
    ("run", "--prompt", "def", "--max-tokens", "1", "--policy", "rate-distortion", "--max-kld", "0.1"),
    ("plan",),
    ("verify",),
)


def warm(bundle: Path) -> None:
    """Load the libraries here, so that no try has to."""
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    from edge_runtime import Engine  # noqa: F401
    from edge_runtime.cli import plan, run, verify  # noqa: F401


def try_bundle(
    bundle: Path, folder: Path, rng: random.Random, budget: int, *, kind: str | None = None
) -> tuple[str, Ending]:
    """Change a copy of a bundle and run a command on it; the copy stays in ``folder / "bundle"`` until the next.

    Returns:
        Which kind of part was changed, and how the command ended.
    """
    from edge_runtime.__main__ import main

    copy = folder / "bundle"
    shutil.rmtree(copy, ignore_errors=True)
    copy_of(bundle, copy)
    chosen = kind or rng.choice(list(KINDS))
    KINDS[chosen](rng, copy)
    verb, *rest = rng.choice(COMMANDS[:3] if rng.random() < 0.8 else COMMANDS[3:])
    command = [verb, str(copy), *rest, "--memory", str(budget), "--context", "64", "--threads", "1"]
    return chosen, attempt(lambda: main(command), folder / "output")
