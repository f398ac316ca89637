"""A grammar's first compilation, in a confined process: see `edge_runtime.base.confined`.

Compiling is a library's native code. Nothing ends it from inside, and 500 bytes of JSON schema (`multipleOf` of nine
primes) ask it for gigabytes. What takes too long here is refused; what passes is compiled again where it is used.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.base.confined import Limits
from edge_runtime.base.sizes import MIB

CHECK = f"{__name__}:check"
CHECK_LIMITS = Limits(cpu_s=2, memory_bytes=48 * MIB)
_INITIAL_FUEL, _STEP_FUEL, _MAX_STATES = 300_000, 30_000, 50_000
"""Several times what schemas of a hundred properties take. A step of the most that is allowed takes 0.1 s."""

_tokens: Any = None


def limits() -> Any:
    """Return the library's own limits, the same here and where grammars are used."""
    import llguidance

    return llguidance.LLParserLimits(
        initial_lexer_fuel=_INITIAL_FUEL, step_lexer_fuel=_STEP_FUEL, max_lexer_states=_MAX_STATES
    )


def check(grammar: str) -> str | None:
    """Compile a grammar over single bytes and take a first step; return what is wrong with it, None if nothing."""
    import llguidance

    global _tokens
    if _tokens is None:
        _tokens = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(_tokens, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    return str(matcher.get_error())[:500] if matcher.is_error() else None
