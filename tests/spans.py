"""Between spans of this process's memory and objects tests can look into."""

from __future__ import annotations

import ctypes
from typing import Any

from edge_runtime.backends.memory import Span


def span_of(buffer: Any) -> Span:
    """The bytes of a writable buffer, kept alive by the span."""
    return Span(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer), buffer)


def view_of(span: Span) -> memoryview:
    """The writable bytes of a span."""
    return memoryview((ctypes.c_uint8 * span.nbytes).from_address(span.address)).cast("B")
