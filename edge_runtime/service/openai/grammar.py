"""Grammars over the model's vocabulary: JSON, JSON schema, regex and tool calls as masks of allowed tokens.

Of llguidance: `grammar_tokens` loads its tokenizer, `grammar_check` compiles a grammar for the first time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_runtime.base.arrays import Bools
from edge_runtime.base.confined import ConfinedHost, JobRefusedError
from edge_runtime.base.errors import RequestError
from edge_runtime.service.openai.call_formats import CallFormat, Offered
from edge_runtime.service.openai.call_formats.base import Term, calls_or_text, marks_of, quoted
from edge_runtime.service.openai.formats import DENSE, Format
from edge_runtime.service.openai.grammar_check import CHECK, CHECK_LIMITS, limits
from edge_runtime.service.openai.grammar_tokens import load_tokens
from edge_runtime.service.openai.harmony import MARKS
from edge_runtime.service.openai.harmony_grammar import call_or_final, forced_call, strict_messages
from edge_runtime.service.openai.messages import Tool

_MAX_GRAMMAR_BYTES = 256 << 10


class Vocabulary:
    """The model's tokens as bytes, and what grammars need of them.

    Args:
        tokenizer_json: the bundle's `tokenizer.json`, whose structure was checked.
        vocab_size: V, columns of the logits.
        eos: tokens that may end a text.
        confined: where grammars are compiled first; it must know `CHECK`. None makes one.
        eos_text: name of one more token that may end a text.
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        vocab_size: int,
        eos: Sequence[int],
        confined: ConfinedHost | None = None,
        eos_text: str | None = None,
    ) -> None:
        self._tokens, self._known, self.eos, self._special = load_tokens(tokenizer_json, vocab_size, eos, eos_text)
        import llguidance

        self._library: Any = llguidance
        self._confined = confined or ConfinedHost({CHECK: CHECK_LIMITS})
        self.vocab_size = vocab_size

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token; of a special token its name."""
        return bytes(self._known.decode_bytes([token_id]))

    def constraint(self, grammar: str, plain: str | None = None) -> Grammar:
        """Return a grammar's constraint.

        Args:
            grammar: as the library reads it.
            plain: the same with texts in place of special tokens, which the first check does not know.

        Raises:
            RequestError: the grammar is not valid or too complex.
        """
        if len(grammar) > _MAX_GRAMMAR_BYTES:
            raise RequestError(f"grammar: expected at most {_MAX_GRAMMAR_BYTES} bytes, got {len(grammar)}.")
        try:
            wrong = self._confined.run(CHECK, grammar if plain is None else plain)
        except JobRefusedError as err:
            raise RequestError(f"grammar: {err}. Make it simpler.") from err
        if wrong is not None:
            raise RequestError(f"grammar: {wrong}")
        matcher = self._library.LLMatcher(self._tokens, grammar, log_level=0, limits=limits())
        if matcher.is_error():
            raise RequestError(f"grammar: {matcher.get_error()[:500]}")
        return Grammar(matcher, self.vocab_size)

    def of_format(self, wanted: Format) -> Grammar:
        """Return the constraint of a response format.

        Raises:
            RequestError: see `constraint`.
        """
        make = self._library.LLMatcher
        if wanted.kind == "regex":
            return self.constraint(make.grammar_from_regex(wanted.pattern))
        return self.constraint(str(make.grammar_from_json_schema(wanted.json_schema, overrides=DENSE)))

    def of_calls_or_format(
        self, tools: Iterable[Tool], calls: CallFormat, wanted: Format, *, only_one_call: bool
    ) -> Grammar:
        """Return the constraint of tool calls and nothing else, or of a text in a format and nothing else.

        Raises:
            RequestError: see `constraint`.
        """
        offered, answer = _offered(tools), self._rule(wanted)
        return self.of_lark(
            lambda term: calls_or_text(calls, offered, term, answer, only_one_call=only_one_call), marks_of(calls)
        )

    def of_harmony_or_format(self, tools: Iterable[Tool], wanted: Format, budget: int) -> Grammar:
        """Return the constraint of a call or a final message in a format, both in gpt-oss' own, after some thinking.

        Args:
            tools: that may be called.
            wanted: of the final message.
            budget: tokens of thinking before.

        Raises:
            RequestError: see `constraint`.
        """
        offered, answer = _offered(tools), self._rule(wanted)
        return self.of_lark(lambda term: call_or_final(offered, term, budget, answer), MARKS)

    def of_tool_call(self, tools: Iterable[Tool], calls: CallFormat) -> Grammar:
        """Return the constraint of exactly one tool call.

        Raises:
            RequestError: see `constraint`.
        """
        offered = [Offered(tool.name, tool.parameters, bool(tool.strict)) for tool in tools]
        return self.of_lark(lambda term: _one_call(calls, offered, term), marks_of(calls))

    def of_strict_tools(self, tools: Iterable[Tool], calls: CallFormat) -> Grammar:
        """Return the constraint of any text in which every tool call follows its schema, if that is strict.

        Raises:
            RequestError: see `constraint`.
        """
        offered = _offered(tools)
        return self.of_lark(lambda term: self._text_with_calls(calls, offered, term), marks_of(calls))

    def of_harmony(self, tools: Iterable[Tool], budget: int | None) -> Grammar:
        """Return the constraint of calls in gpt-oss' format.

        Args:
            tools: that may be called.
            budget: tokens of thinking before exactly one call; None: any messages, whose calls follow strict schemas.

        Raises:
            RequestError: see `constraint`.
        """
        is_forced = budget is not None
        offered = [Offered(t.name, t.parameters if is_forced or t.strict else None, bool(t.strict)) for t in tools]
        if budget is None:
            return self.of_lark(lambda term: strict_messages(offered, term), MARKS)
        return self.of_lark(lambda term: forced_call(offered, term, budget), MARKS)

    def of_lark(self, made: Callable[[Term], str], marks: Sequence[str]) -> Grammar:
        """Return the constraint of a grammar in which marks may be special tokens.

        Args:
            made: makes the grammar's text.
            marks: texts that are such tokens if the tokenizer has them so.

        Raises:
            RequestError: see `constraint`.
        """
        special = {mark: self._special[mark] for mark in marks if mark in self._special}
        to_lark = self._library.LLMatcher.grammar_from_lark
        plain = str(to_lark(made(quoted)))
        if not special:
            return self.constraint(plain)
        return self.constraint(str(to_lark(made(lambda text: _with_tokens(text, special)))), plain)

    def _rule(self, wanted: Format) -> str:
        """A format as a grammar's term."""
        if wanted.kind == "regex":
            return f"/{self._library.regex_to_lark(wanted.pattern)}/"
        return f"%json {json.dumps({**wanted.json_schema, 'x-guidance': DENSE})}"

    def _text_with_calls(self, calls: CallFormat, offered: Sequence[Offered], term: Term) -> str:
        rules, begins, ends = calls.rules(offered, term), term(calls.prefix), term(calls.suffix)
        if begins.startswith('"'):
            return f"start: (text call {ends})* tail\ntext[suffix={begins}]: /(?s:.*)/\ntail: /(?s:.*)/\n{rules}"
        others = sorted(set(self._special.values()) - {self._special[mark] for mark in marks_of(calls)} - {*self.eos})
        free = "/(?s:.+)/" + (f" | <[{','.join(map(str, others))}]>" if others else "")
        return f"start: free ({begins} call {ends} free)*\nfree: ({free})*\n{rules}"


def _offered(tools: Iterable[Tool]) -> list[Offered]:
    """Tools that a model may call as it likes: strict ones with the arguments they take, others with any."""
    return [Offered(tool.name, tool.parameters if tool.strict else None, bool(tool.strict)) for tool in tools]


def _one_call(calls: CallFormat, offered: Sequence[Offered], term: Term) -> str:
    return f"start: {term(calls.prefix)} call {term(calls.suffix)}\n{calls.rules(offered, term)}"


def _with_tokens(text: str, special: Mapping[str, int]) -> str:
    """A text as a grammar's term, in which marks are the tokens that have their names."""
    pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text)
    terms = [f"<[{special[piece]}]>" if piece in special else quoted(piece) for piece in pieces if piece]
    return " ".join(terms) or quoted("")


class Grammar:
    """State of one text under a grammar. Implements `edge_runtime.engine.sampler.Constraint`."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def copy(self) -> Grammar:
        """Return the same state for another text."""
        return Grammar(self._matcher.deep_copy(), self._vocab_size)

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Bools:
        """Return the tokens that may come next, bool [V]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].view(np.bool_)
        if not mask.any():
            raise RequestError(f"grammar: no token may follow. {self._matcher.get_error()[:300]}".rstrip())
        return mask

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen."""
        if not self._matcher.consume_token(token_id):
            raise RequestError(f"grammar: cannot go on: {self._matcher.get_error()[:300]}")
