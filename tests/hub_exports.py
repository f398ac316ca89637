"""Exports of a model by name, compared and interrupted."""

from __future__ import annotations

from pathlib import Path

from fake_hub import FakeHub

from edge_runtime.bundle import manifest_file
from hobbit_export.cli import main


def export(out: Path, *flags: str, name: str = "org/tiny") -> int:
    return main([name, "--out", str(out), "--no-self-check", *flags])


def same_parts(one: Path, other: Path) -> bool:
    digests = [{p.name: p.sha256 for p in manifest_file.read(bundle).parts} for bundle in (one, other)]
    return digests[0] == digests[1]


def until_it_ends(hub: FakeHub, out: Path, before: int) -> None:
    """Export once to see how many requests it takes, then to `out` with a hub that dies so many before the last."""
    begun = hub.seen["store"]
    assert export(out.with_name(f"another_{out.name}")) == 0
    hub.dies_after = 2 * hub.seen["store"] - begun - before
    assert export(out) == 1
    hub.dies_after = None
