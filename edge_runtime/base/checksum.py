"""CRC-32C, native: what every segment of an expert record is checked with.

`crc32c(data, value=0)`     of a contiguous buffer, continuing from `value`. Releases the GIL for long buffers.
"""

from __future__ import annotations

try:
    from edge_runtime.base._native import crc32c
except ImportError as err:
    raise ImportError(
        "edge_runtime.base: the native extension '_native' is missing or does not load "
        f"({err}). Build it with: pip install -e . (needs a C++17 compiler)"
    ) from err

__all__ = ["crc32c"]
