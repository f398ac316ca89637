"""Byte sizes as people write them: parse '512MiB', print '1.5 GiB'."""

from __future__ import annotations

import re

from edge_runtime.base.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_UNITS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 10**3,
    "m": MIB, "mib": MIB, "mb": 10**6,
    "g": GIB, "gib": GIB, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip


def parse_size(text: str | int, where: str = "size") -> int:
    """Parse a byte count such as ``512MiB``, ``1.5GiB`` or ``4000MB``.

    Args:
        text: a number with an optional unit; ``KiB/MiB/GiB/TiB`` are powers of 1024 (so are the bare letters
            ``k m g t``), ``kB/MB/GB/TB`` powers of 1000.
        where: what the value belongs to, named in the error.

    Raises:
        ConfigError: the text is not a size, or is not positive.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-zA-Z]*)\s*", str(text))
        if not match or match[2].lower() not in _UNITS:
            raise ConfigError(f"{where}: expected a size such as 512MiB or 4GiB, got {text!r}.")
        value = float(match[1]) * _UNITS[match[2].lower()]
    if value < 1:
        raise ConfigError(f"{where}: expected a size above zero, got {text!r}.")
    return int(value)


def format_size(count: float) -> str:
    """Print a byte count with at least three significant digits: ``1.50 GiB``, ``147.3 MiB``."""
    sign, value = ("-", -count) if count < 0 else ("", float(count))
    power = 0
    while value >= 1024 and power < 4:
        value, power = value / 1024, power + 1
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    digits = 0 if unit == "B" else (1 if value >= 10 else 2)
    text = f"{value:.{digits}f}"
    return f"{sign}{text.removesuffix('.0') if value >= 100 else text} {unit}"


def format_size_up(count: int) -> str:
    """Print a byte count rounded up, so that what is read back is at least as large: ``1.75 GiB``, ``148 MiB``."""
    unit = 1
    while count >= 1024 * unit and unit < 1 << 40:
        unit *= 1024
    return format_size(align_up(count, max(unit // (4 if count < 8 * unit else 2), 1)))


def align_up(count: int, step: int) -> int:
    """Round up to a multiple of step."""
    return -(-count // step) * step
