"""`--dry-run`: what an export would write, and what the planner says of it, from headers or from an index alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export import trunk_choice
from hobbit_export.by_index import IndexedModel, open_by_index
from hobbit_export.calibration import check_text
from hobbit_export.ceiling import ceiling, resident_bytes
from hobbit_export.expected_parts import ExpectedPart, describe, expected_parts, parts_of_model, tokenizer_parts
from hobbit_export.fit import fit_profiles
from hobbit_export.memory import share_memory
from hobbit_export.opening import open_source
from hobbit_export.options import ExportOptions
from hobbit_export.source import SourceModel
from hobbit_export.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from hobbit_export.hub.listing import Listing

TENSORS, TOKENIZER = "types and shapes of the tensors", "the tokenizer"


def by_headers(options: ExportOptions) -> dict[str, Any]:
    """Return what an export would write whose source is opened as the export would open it."""
    _check_text(options)
    source = open_source(options)
    with source.checkpoint, ceiling(options.memory_bytes):
        resolved = trunk_choice.resolve(source, options)
        parts = expected_parts(source, resolved.options)
        return _report(source, resolved, parts) | {"basis": "headers", "not_checked": []}


def by_index(options: ExportOptions, listing: Listing) -> dict[str, Any]:
    """Return what an export would write of a model by name, of which config.json and the index are here, and no more.

    A model of one file has no index but that file's header, which is read then.
    """
    _check_text(options)
    with ceiling(options.memory_bytes):
        assert options.files is not None
        model = open_by_index(options, options.files)
        source = open_source(options) if model is None else model.source
        with source.checkpoint:
            of_tokenizer, unknown = _tokenizer(options, listing, source.spec)
            resolved = trunk_choice.unresolved(source, options) if unknown else trunk_choice.resolve(source, options)
            parts = [*of_tokenizer, *parts_of_model(source, resolved.options)]
            not_checked = [*([TENSORS] if model else []), *([TOKENIZER] if unknown else [])]
            stated = _stated(model) if model else {}
            basis = {"basis": "index" if model else "headers", "not_checked": not_checked}
            return _report(source, resolved, parts) | basis | stated


def _check_text(options: ExportOptions) -> None:
    if options.calibrate:
        check_text(options.calibrate)


def _tokenizer(options: ExportOptions, listing: Listing, spec: ModelSpec) -> tuple[list[ExpectedPart], bool]:
    """Return the tokenizer's parts, and whether it is one that was not read: the hub says how large its files are."""
    if options.tokenizer is not None:
        return tokenizer_parts(tokenizer_files(options.tokenizer), spec), False
    return [ExpectedPart(f"tokenizer/{file.name}", "tokenizer", file.size) for file in listing.tokenizer()], True


def _stated(model: IndexedModel) -> dict[str, Any]:
    return {
        "assumed": {"dtype": model.dtype.lower(), "why": model.why},
        "index": {
            "tensors": model.tensors,
            "files": model.files,
            "bytes": model.stated_bytes,
            "matched_bytes": model.matched_bytes,
        },
    }


def _report(source: SourceModel, resolved: trunk_choice.ResolvedTrunk, parts: list[ExpectedPart]) -> dict[str, Any]:
    options = resolved.options
    share_memory(source, options, resident_bytes())
    return {
        "bundle": str(options.out),
        "dry_run": True,
        **describe(parts, source.spec, options),
        "left_out": [omitted.to_json() for omitted in source.left_out],
        "formats": source.formats,
        "ignored_keys": list(options.ignore_keys),
        "source": options.source_name or str(options.checkpoint),
        "trunk": trunk_choice.outlook(source, resolved),
        "profiles": fit_profiles(source.spec, parts, options),
    }
