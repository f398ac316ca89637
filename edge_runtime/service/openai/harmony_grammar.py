"""Grammars of tool calls in gpt-oss' format: a call after some thinking, or any messages whose calls follow schemas."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import Offered, Term, json_rule
from edge_runtime.service.openai.harmony import CALL_HEADER, CHANNEL, CONSTRAIN, END, MESSAGE, START

_NEXT = f"{END}{START}assistant"


def forced_call(tools: Sequence[Offered], term: Term, budget: int) -> str:
    """Return the grammar of exactly one call.

    Args:
        tools: of which one is called.
        term: see `call_formats.base.Term`.
        budget: tokens of thinking before it; 0: none.
    """
    thought = (
        f"thought: {term(f'{CHANNEL}analysis{MESSAGE}')} body {term(_NEXT)}\nbody[max_tokens={budget}]: /(?s:.*)/\n"
    )
    calls = [
        f"call_{i}: {term(f'{CALL_HEADER}{tool.name} {CONSTRAIN}json{MESSAGE}')} json_{i}\n"
        for i, tool in enumerate(tools)
    ]
    start = "start: thought? call\n" if budget > 0 else "start: call\n"
    return start + (thought if budget > 0 else "") + _alternatives(tools) + "".join(calls) + _arguments(tools)


def strict_messages(tools: Sequence[Offered], term: Term) -> str:
    """Return the grammar of messages of which the last may be a call; the recipient may stand before the channel."""
    channel, message = term(CHANNEL), term(MESSAGE)
    rules = (
        f"start: (plain {term(_NEXT)})* (plain | call)\n"
        f'plain: {channel} ("analysis" | "commentary" | "final") {message} /(?s:.*)/\n'
        f'json_mark: " "? {term(CONSTRAIN)} "json" | " json" | ""\n'
    )
    for i, tool in enumerate(tools):
        early = f"{term(f' to=functions.{tool.name}')} {channel} {term('commentary')}"
        rules += f"call_{i}: ({term(CALL_HEADER + tool.name)} | {early}) json_mark {message} json_{i}\n"
    return rules + _alternatives(tools) + _arguments(tools)


def _alternatives(tools: Sequence[Offered]) -> str:
    return f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}\n"


def _arguments(tools: Sequence[Offered]) -> str:
    return "".join(
        f"json_{i}: {json_rule({'type': 'object'} if tool.parameters is None else tool.parameters)}\n"
        for i, tool in enumerate(tools)
    )
