"""Which kind of memory experts are computed from: each is tried with one expert and timed, and the cheapest is taken.

`choose_memory` is where to start. docs/adr/0169-kinds-of-memory-are-measured.md has the reasons.
"""

from edge_runtime.backends.cuda.memory_probe.choice import Memory, choose_memory
from edge_runtime.backends.cuda.memory_probe.kinds import KindResult, Kinds

__all__ = ["KindResult", "Kinds", "Memory", "choose_memory"]
