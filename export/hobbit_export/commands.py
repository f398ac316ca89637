"""What the command line does once its flags are checked; it imports numpy and the rest only when called."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hobbit_export.options import ExportOptions


def find_source(options: ExportOptions, keep_source: Path | None) -> ExportOptions:
    """Return options that say where the model is, if they named one on a hub."""
    from hobbit_export.hub.opening import by_name

    return by_name(options, keep_source)


def run_export(options: ExportOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Export, or only verify what is complete; return the report."""
    from dataclasses import asdict

    from hobbit_export.ceiling import resident_bytes
    from hobbit_export.exporter import export
    from hobbit_export.verify import check_same_source, run_self_check, verify
    from hobbit_export.workplace import is_complete

    report: dict[str, Any] = {"bundle": str(options.out), "dry_run": False}
    if arguments.verify and options.resume and is_complete(options.out):
        check_same_source(options)
    else:
        report |= asdict(export(options, quiet=arguments.json))
        if not arguments.verify and not arguments.no_self_check:
            report["self_check"] = run_self_check(options)
    report["source_files_verified"] = options.files.check_whole() if arguments.verify and options.files else 0
    report["verified"] = verify(options, quiet=arguments.json) if arguments.verify else None
    if "peak_rss_bytes" in report:  # of the process to its end, and before the check that comes last
        report |= {"export_peak_rss_bytes": report["peak_rss_bytes"], "peak_rss_bytes": resident_bytes("VmHWM")}
    return report


def dry_run(options: ExportOptions) -> dict[str, Any]:
    """Return the plan of an export."""
    from hobbit_export import trunk_choice
    from hobbit_export.calibration import check_text
    from hobbit_export.ceiling import ceiling, resident_bytes
    from hobbit_export.fit import fit_profiles
    from hobbit_export.memory import plan_memory
    from hobbit_export.opening import open_source
    from hobbit_export.plan import describe, plan_parts

    if options.calibrate:
        check_text(options.calibrate)
    source = open_source(options)
    with source.checkpoint, ceiling(options.memory_bytes):
        settled = trunk_choice.settle(source, options)
        options = settled.options
        plan_memory(source, options, resident_bytes())
        parts = plan_parts(source, options)
        plan = describe(parts, source.spec, options)
        return {
            "bundle": str(options.out),
            "dry_run": True,
            **plan,
            "left_out": [omitted.to_json() for omitted in source.left_out],
            "formats": source.formats,
            "ignored_keys": list(options.ignore_keys),
            "source": options.source_name or str(options.checkpoint),
            "trunk": trunk_choice.plan(source, settled),
            "profiles": fit_profiles(source.spec, parts, options),
        }
