"""Opens the source that options name: the driver of an export, its workers and a dry run see the same model."""

from __future__ import annotations

from hobbit_export.ceiling import ceiling
from hobbit_export.options import ExportOptions
from hobbit_export.source import SourceModel


def open_source(options: ExportOptions) -> SourceModel:
    """Return the source model, its headers read and matched. The caller closes `checkpoint`.

    Raises:
        ConfigError, BundleError: see `SourceModel.open`.
        BudgetError: what its files say of themselves might not fit under the ceiling.
    """
    with ceiling(options.memory_bytes):
        source = SourceModel.open(options.checkpoint, options.ignore_keys, options.tokenizer, options.files)
    return source.coded(options.codes)
