"""What the command line does once its flags are checked; it imports numpy and the rest only when called."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hobbit_export.options import ExportOptions


def report(options: ExportOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the flags ask for and return what is to be said of it."""
    if arguments.dry_run:
        return dry_run(options, arguments.keep_source, read_headers=arguments.read_headers)
    return run_export(find_source(options, arguments.keep_source), arguments)


def find_source(options: ExportOptions, keep_source: Path | None) -> ExportOptions:
    """Return options that say where the model is, if they named one on a hub."""
    from hobbit_export.hub.opening import by_name

    return by_name(options, keep_source)


def dry_run(options: ExportOptions, keep_source: Path | None, *, read_headers: bool) -> dict[str, Any]:
    """Return the plan of an export; of a model by name from configuration and index, unless more is to be read."""
    from hobbit_export.dry_run import by_headers, by_index
    from hobbit_export.hub.opening import by_name, indexed

    found = None if read_headers else indexed(options, keep_source)
    return by_headers(by_name(options, None)) if found is None else by_index(*found)


def run_export(options: ExportOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Export, or only verify what is complete; return the report."""
    from dataclasses import asdict

    from hobbit_export.ceiling import resident_bytes
    from hobbit_export.exporter import export
    from hobbit_export.verify import check_files, check_same_source, run_self_check, verify
    from hobbit_export.workplace import is_complete

    report: dict[str, Any] = {"bundle": str(options.out), "dry_run": False}
    if arguments.verify and options.resume and is_complete(options.out):
        check_same_source(options)
        report["source_files_verified"] = check_files(options)
    else:
        report |= asdict(export(options, quiet=arguments.json))
        if not arguments.verify and not arguments.no_self_check:
            report["self_check"] = run_self_check(options)
    report["verified"] = verify(options, quiet=arguments.json) if arguments.verify else None
    if "peak_rss_bytes" in report:  # of the process to its end, and before the check that comes last
        report |= {"export_peak_rss_bytes": report["peak_rss_bytes"], "peak_rss_bytes": resident_bytes("VmHWM")}
    return report


def without_onnx() -> int:
    """Say what is missing. What devices install has no exporter's libraries, and perhaps no network to fetch them."""
    from edge_runtime.base.ending import say
    from edge_runtime.base.extras import install_extra

    say(
        f"hobbit-export: onnx is not installed. {install_extra('export')}\n"
        "Without a network here: export on another machine and bring the bundle (`hobbit pull`, or copy the folder)."
    )
    return 1
