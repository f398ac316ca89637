"""What passes take of the memory while they run, by their length; planned for the longest."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.backends.base import MemoryFormulas
from edge_runtime.base.spec import ModelSpec

_FEW_TOKENS = 8
_PARTS, _BORROWED = 8, 7
"""Of what is unused an eighth is left: an allocator may keep as much."""


@dataclass(frozen=True)
class PassScratch:
    """Scratch of passes of one engine.

    Attributes:
        formulas: of its backend.
        spec: the model.
        context: tokens of a KV cache.
        parallel: most sequences of a pass.
        logits_bytes: kept for the logits of a pass.
    """

    formulas: MemoryFormulas
    spec: ModelSpec
    context: int
    parallel: int
    logits_bytes: int

    @property
    def few_tokens(self) -> int:
        """Tokens up to which a pass borrows nothing back: one of each sequence, or a very short prompt."""
        return max(self.parallel, _FEW_TOKENS)

    def bytes_for(self, chunk: int) -> int:
        """Return the most a pass takes in which one sequence brings `chunk` tokens."""
        return self.formulas.scratch_bytes(self.spec, chunk, self.context, self.parallel) + self.logits_bytes

    def unused(self, chunk: int, tokens: int) -> int:
        """Return how much of the scratch planned for `chunk` tokens others may use while a pass of `tokens` runs."""
        return max(0, self.bytes_for(chunk) - self.bytes_for(min(tokens, chunk))) * _BORROWED // _PARTS
