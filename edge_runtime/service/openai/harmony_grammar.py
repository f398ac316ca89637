"""Grammars of tool calls in gpt-oss' format: a call after some thinking, or any messages whose calls follow schemas."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.service.openai.call_formats.base import Offered, Term, json_rule
from edge_runtime.service.openai.harmony import CALL_HEADER, CHANNEL, CONSTRAIN, END, FINAL, MESSAGE, START

_NEXT = f"{END}{START}assistant"


def forced_call(tools: Sequence[Offered], term: Term, budget: int) -> str:
    """Return the grammar of exactly one call.

    Args:
        tools: of which one is called.
        term: see `call_formats.base.Term`.
        budget: tokens of thinking before it; 0: none.
    """
    return _after_thought("call", term, budget) + _calls(tools, term)


def call_or_final(tools: Sequence[Offered], term: Term, budget: int, answer: str) -> str:
    """Return the grammar of exactly one call, or of a final message.

    Args:
        tools: of which one may be called.
        term: see `call_formats.base.Term`.
        budget: tokens of thinking before it; 0: none.
        answer: a term that the final message matches.
    """
    final = f"final: {term(FINAL)} answer\nanswer: {answer}\n"
    return _after_thought("(call | final)", term, budget) + final + _calls(tools, term)


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


def _after_thought(then: str, term: Term, budget: int) -> str:
    """What comes after some thinking, or at once."""
    if budget <= 0:
        return f"start: {then}\n"
    begins, ends = term(f"{CHANNEL}analysis{MESSAGE}"), term(_NEXT)
    return f"start: thought? {then}\nthought: {begins} body {ends}\nbody[max_tokens={budget}]: /(?s:.*)/\n"


def _calls(tools: Sequence[Offered], term: Term) -> str:
    """The rule `call`, and those it needs."""
    calls = [
        f"call_{i}: {term(f'{CALL_HEADER}{tool.name} {CONSTRAIN}json{MESSAGE}')} json_{i}\n"
        for i, tool in enumerate(tools)
    ]
    return _alternatives(tools) + "".join(calls) + _arguments(tools)


def _alternatives(tools: Sequence[Offered]) -> str:
    return f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}\n"


def _arguments(tools: Sequence[Offered]) -> str:
    return "".join(
        f"json_{i}: {json_rule({'type': 'object'} if tool.parameters is None else tool.parameters)}\n"
        for i, tool in enumerate(tools)
    )
