"""Trace files that lie with a correct checksum."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from edge_runtime.base.checksum import crc32c


def with_header(good: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a trace whose header was changed."""
    size = struct.unpack_from("<I", good, 12)[0]
    value = json.loads(good[20 : 20 + size])
    change(value)
    text = json.dumps(value).encode()
    return good[:12] + struct.pack("<II", len(text), crc32c(text)) + text + good[20 + size :]
