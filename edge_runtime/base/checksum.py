"""CRC-32C, native: what every segment of an expert record is checked with.

`crc32c(data, value=0)`     of a contiguous buffer, continuing from `value`. Releases the GIL for long buffers.
"""

from __future__ import annotations

try:
    from edge_runtime.base._native import crc32c
except ImportError as err:
    from edge_runtime.base.errors import missing_extension

    raise ImportError(missing_extension("edge_runtime.base", err)) from err

__all__ = ["crc32c"]
