"""What a format of tool calls is, and what formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Schemas = Mapping[str, Mapping[str, Any]]
"""JSON schemas of the tools' parameters by name."""
Term = Callable[[str], str]
"""From a text that may hold marks to a grammar's term: where a mark is a special token, the token alone matches it."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Function(NamedTuple):
    """A call: name of the function, and its arguments as JSON text."""

    name: str
    arguments: str


class Offered(NamedTuple):
    """A tool as grammars need it; `parameters` None: any arguments will do; `strict`: nothing else than they say."""

    name: str
    parameters: Mapping[str, Any] | None
    strict: bool = False


class CallFormat(Protocol):
    """How a model writes tool calls."""

    @property
    def opens(self) -> str:
        """The text that begins a call, or a list of calls; streamed text that may become it is held back."""
        ...

    @property
    def closes(self) -> str:
        """The text that ends it."""
        ...

    @property
    def prefix(self) -> str:
        """How a forced call begins, `opens` included."""
        ...

    @property
    def suffix(self) -> str:
        """How it ends, `closes` included."""
        ...

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read what stands between `opens` and `closes`; None: it is no call."""
        ...

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return rules of a grammar (llguidance's lark) whose rule `call` is one call, less `prefix` and `suffix`."""
        ...


def marks_of(calls: CallFormat) -> tuple[str, ...]:
    """Return the texts of a format that a tokenizer may have as special tokens, which no other text matches."""
    found: tuple[str, ...] = getattr(calls, "marks", (calls.opens, calls.closes))
    return found


def quoted(text: str) -> str:
    """Return a grammar's term for a text without special tokens."""
    return json.dumps(text, ensure_ascii=False)


def loads(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def value_of(text: str, schema: Any) -> Any:
    """Read an argument that is text where its schema says so; anything else is JSON, and text if it is none."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return loads(text)
    except ValueError:
        return text


def properties_of(schemas: Schemas, name: str) -> Mapping[str, Any]:
    """Return the schemas of a tool's arguments, as far as it states them."""
    known = schemas.get(name, {}).get("properties")
    return known if isinstance(known, Mapping) else {}


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return a grammar's term for JSON of a schema, spaced as models write it."""
    return f"%json {json.dumps({**schema, 'x-guidance': _SPACING})}"


def json_call_rules(tools: Iterable[Offered]) -> str:
    """Return the rule `call` of formats that write a call as an object with name and arguments."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": t.name}, "arguments": _object(t)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for t in tools
    ]
    return f"call: {json_rule({'anyOf': calls})}\n"


def _object(tool: Offered) -> dict[str, Any]:
    return {"type": "object"} if tool.parameters is None else dict(tool.parameters)


def calls_or_text(
    calls: CallFormat, tools: Sequence[Offered], term: Term, answer: str, *, only_one_call: bool
) -> str:  # fmt: skip
    """Return the grammar of calls without any text beside them, or of a text without any call.

    Args:
        calls: how the model writes them.
        tools: that may be called.
        term: see `Term`.
        answer: a term that the text matches.
        only_one_call: more than one are not allowed.
    """
    more = "" if only_one_call else ' ("\\n"? one)*'
    one = f"one: {term(calls.prefix)} call {term(calls.suffix)}\n"
    return f"start: one{more} | answer\nanswer: {answer}\n{one}{calls.rules(tools, term)}"


def call_rules(names: Iterable[str], rules: str) -> str:
    """Return rules whose rule `call` is one of several calls."""
    return f"call: {' | '.join(names)}\n{rules}"


class Delimiters(NamedTuple):
    """What stands around an argument: before its name, between name and value, after the value."""

    before: str
    between: str
    after: str


def function_rules(tools: Iterable[Offered], delimiters: Delimiters, head: Callable[[str], str], tail: str = "") -> str:
    """Return rules of calls whose arguments are written one by one between delimiters.

    Args:
        tools: that may be called.
        delimiters: around an argument.
        head: returns the term that a call of a function begins with.
        tail: the term that it ends with.
    """
    rules, names = "", []
    for number, tool in enumerate(tools):
        name = f"call_{number}"
        terms, parts = argument_rules(name, tool, delimiters)
        rules += f"{name}: {head(tool.name)} {terms} {tail}\n{parts}"
        names.append(name)
    return call_rules(names, rules)


def argument_rules(name: str, tool: Offered, delimiters: Delimiters) -> tuple[str, str]:
    """Return rules of arguments written one by one between delimiters: all that are required, in the schema's order.

    Args:
        name: of the rule, for names of its parts.
        tool: whose arguments.
        delimiters: around an argument.

    Returns:
        The terms that make up the arguments, and the rules they need. A tool without a schema takes any arguments.
    """
    before, between, after = map(quoted, delimiters)
    if tool.parameters is None:
        key = f"{name}_key[suffix={between}]: /[^<>\\n]+/\n"
        value = f"{name}_any[suffix={after}]: /(?s:.*)/\n"
        return f"({before} {name}_key {name}_any)*", key + value
    known = properties_of({tool.name: tool.parameters}, tool.name)
    required = tool.parameters.get("required") or ()
    shared = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
    terms, rules = [], ""
    for number, (key, schema) in enumerate(known.items()):
        part = f"{name}_{number}"
        head = quoted(f"{delimiters.before}{key}{delimiters.between}")
        if isinstance(schema, Mapping) and schema.get("type") == "string" and "enum" not in schema:
            rules += f"{part}: {head} {part}_text\n{part}_text[suffix={after}]: /(?s:.*)/\n"
        elif isinstance(schema, Mapping) and schema.get("type") == "string":
            words = " | ".join(quoted(str(word)) for word in schema["enum"])
            rules += f"{part}: {head} ({words}) {after}\n"
        else:
            whole = {**(schema if isinstance(schema, Mapping) else {}), **shared}
            rules += f"{part}: {head} {part}_json {after}\n{part}_json: {json_rule(whole)}\n"
        terms.append(part if key in required else f"{part}?")
    return " ".join(terms), rules
