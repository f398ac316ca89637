"""Export the bundled model and say what an installed copy has to make of it: what this machine does.

usage: python expected.py MODEL [--isa NAME --reads WORD] > expected.json

MODEL is the folder that takes the bundle. `--isa` and `--reads` are for a machine that is emulated: what its kernels
should choose, and what its reads should be made with. Without them it is what holds here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import kernels

from edge_runtime.backends.cpu.kernels import available_isas
from edge_runtime.experts.drive import DriveReader

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tiny-moe"
FLAGS = (
    "--prompt", "import os", "--max-tokens", "16", "--temperature", "0", "--memory", "400MiB", "--context", "128",
    "--expert-memory", "6MiB",
)  # fmt: skip

POLICIES = ("lossless", "hobbit", "cache-prior:lambda=0.3", "mobile")
"""Each decides in native code for a single token; the first is the default, with which the service is asked."""


def reads_with() -> str:
    """Return the first word of what reads are made with here."""
    reader = DriveReader(2, False, True)
    said = reader.method
    reader.close(5.0)
    return said.split()[0]


def experts_of(bundle: Path) -> dict[str, str]:
    """Return the digests of a bundle's expert files: their bytes are the same whatever machine encodes them."""
    parts = json.loads((bundle / "manifest.json").read_text())["parts"]
    return {part["name"]: part["sha256"] for part in parts if part["role"] == "experts"}


def token_ids(model: Path, policy: str) -> list[int]:
    """Return what greedy decoding under a policy gives."""
    run = [sys.executable, "-m", "edge_runtime", "run", model, *FLAGS, "--policy", policy, "--json"]
    return list(json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)["token_ids"])


def main() -> None:
    """Export, decode, and print what has to come out elsewhere."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--isa", default=available_isas()[0])
    parser.add_argument("--reads", default=None)
    given = parser.parse_args()
    export = [sys.executable, "-m", "hobbit_export", EXAMPLE, "--out", given.model, "--tiers", "4,2", "--trunk", "fp32"]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    found = {
        "experts": experts_of(given.model),
        "flags": FLAGS,
        "token_ids": {policy: token_ids(given.model, policy) for policy in POLICIES},
        "isa": given.isa,
        "reads_with": given.reads or reads_with(),
        "kernels": kernels.digests(available_isas()[0]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
