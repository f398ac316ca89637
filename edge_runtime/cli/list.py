"""`hobbit list`: what is in the folder of models, and what unfinished pulls have brought."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.options import add_options
from edge_runtime.config.options import BY_NAME

if TYPE_CHECKING:
    from edge_runtime.transfer.model_folder import Model, ModelFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's flags."""
    add_options(parser, [BY_NAME["models"], BY_NAME["json"]])


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_runtime.transfer.model_folder import ModelFolder

    folder = ModelFolder(args.models)
    models = [_entry(model) for model in folder.models()]
    unfinished = [{"name": pull.name, "bytes": pull.bytes} for pull in folder.unfinished()]
    if args.json:
        print(json.dumps({"folder": str(folder.path), "models": models, "unfinished": unfinished}))
    else:
        print("\n".join(_lines(folder, models, unfinished)))
    return 0


def _entry(model: Model) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": model.name, "path": str(model.path)}
    if model.manifest is None:
        return entry | {"fault": model.fault}
    m = model.manifest
    return entry | {
        "bytes": model.bytes,
        "bundle_id": m.bundle_id,
        "family": m.model.family,
        "tiers": m.experts.tiers,
        "trunk": m.trunk.precision,
        "source": m.source.checkpoint,
    }


def _lines(folder: ModelFolder, models: list[dict[str, Any]], unfinished: list[dict[str, Any]]) -> list[str]:
    from edge_runtime.base.sizes import format_size

    rows = [("NAME", "SIZE", "TIERS", "TRUNK", "FAMILY", "ID")]
    for entry in models:
        if "fault" in entry:
            rows.append((entry["name"], "cannot be read", "", "", "", ""))
            continue
        tiers = ",".join("bf16" if tier == 16 else str(tier) for tier in entry["tiers"])
        size, short = format_size(entry["bytes"]), entry["bundle_id"][:12]
        rows.append((entry["name"], size, tiers, entry["trunk"], entry["family"], short))
    for pull in unfinished:
        rows.append((pull["name"], format_size(pull["bytes"]), "unfinished", "", "", ""))
    if len(rows) == 1:
        return [f"no models in {folder.path}"]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    faults = [f"{entry['name']}: {entry['fault']}" for entry in models if "fault" in entry]
    return [*table, *faults]
