"""Between ranges of this process's memory and objects tests can look into."""

from __future__ import annotations

import ctypes
from typing import Any

from edge_runtime.backends.memory import ByteRange


def range_of(buffer: Any) -> ByteRange:
    """The bytes of a writable buffer, kept alive by the range."""
    return ByteRange(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer), buffer)


def view_of(byte_range: ByteRange) -> memoryview:
    """The writable bytes of a range."""
    return memoryview((ctypes.c_uint8 * byte_range.nbytes).from_address(byte_range.address)).cast("B")
