"""What tests of pull and push share: a small bundle with every tier, contents of folders, quick tries."""

from __future__ import annotations

from pathlib import Path

from synthetic import qwen3_config, write_qwen3

from edge_runtime.transfer.model_folder import ModelFolder
from edge_runtime.transfer.origin import origin_of
from edge_runtime.transfer.patience import Retrying
from edge_runtime.transfer.pull import Progress, Pulled, PullOptions, pull
from hobbit_export.exporter import export
from hobbit_export.options import ExportOptions, parse_tiers

QUICK = Retrying(tries=4, first_pause_s=0.001, longest_pause_s=0.01, timeout_s=20)


def small_bundle(folder: Path, tiers: str = "8,6,4,2,bf16", *, experts: int = 6, layers: int = 2) -> Path:
    """Export a random model of half a megabyte below a folder."""
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        write_qwen3(checkpoint, qwen3_config(64, 64, experts, layers))
    out = folder / f"bundle-{tiers.replace(',', '-')}"
    export(ExportOptions(checkpoint, out, tiers=parse_tiers(tiers), trunk="int8"), quiet=True)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pulled(
    text: str | Path, models: Path, name: str = "m", *, progress: Progress | None = None,
    retrying: Retrying = QUICK, **options: object,
) -> Pulled:  # fmt: skip
    """Pull with little patience."""
    wanted = PullOptions(name=name, retrying=retrying, **options)  # type: ignore[arg-type]
    return pull(origin_of(str(text)), ModelFolder(models), wanted, progress)
