"""Contexts for blocks that run dozens of times a token, native: a method in Python takes longer than reading a clock.

`HostSpan(name)`    adds up the nanoseconds of its `with` blocks in `ns`. `note`, unless it is None, is called behind
                    each with (name, start_ns, end_ns), by the clock of `time.perf_counter_ns`.
`Untimed()`         does nothing.
"""

from __future__ import annotations

try:
    from edge_runtime.base._native import HostSpan, Untimed
except ImportError as err:
    from edge_runtime.base.errors import missing_extension

    raise ImportError(missing_extension("edge_runtime.base", err)) from err

__all__ = ["HostSpan", "Untimed"]
