"""Grammars of values as Gemma and LFM2 write them, from JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import RequestError
from edge_runtime.service.openai.call_formats.base import Offered, Term, json_rule
from edge_runtime.service.openai.call_formats.literals import Style

_SAYS_NOTHING = frozenset({
    "title", "description", "default", "examples", "type", "enum", "const", "properties", "required", "items", "anyOf",
    "oneOf", "$ref", "$defs", "definitions", "additionalProperties", "$schema", "$comment", "$id", "nullable",
})  # fmt: skip
"""Keywords that rules follow, and such that restrict nothing."""
_MOST_RULES = 2000
_NUMBERS = {
    "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?/",
}


class LiteralRules:
    """Collects rules; each method returns a term.

    Args:
        style: how values are written.
        term: see `base.Term`.
    """

    def __init__(self, style: Style, term: Term) -> None:
        self._style, self._term = style, term
        self._rules: dict[str, str] = {}
        self._refs: dict[tuple[str, str], str] = {}

    def text(self) -> str:
        """Return the rules."""
        return "".join(f"{name}: {rule}\n" for name, rule in self._rules.items())

    def arguments(self, name: str, tool: Offered, between: str) -> str:
        """Return the term of a call's arguments: keys in alphabetical order, as these models were trained."""
        if tool.parameters is None or not isinstance(tool.parameters.get("properties"), Mapping):
            return self._any_members(between)
        return self._members(name, tool.parameters, between, tool, bare=True)

    def _members(self, name: str, schema: Mapping[str, Any], between: str, tool: Offered, *, bare: bool) -> str:
        """Members of an object: all that are required; those known alone."""
        self._check(schema, tool)
        required = schema.get("required") or ()
        rest, first = self._add(f"{name}_end", '""'), '""'
        for number, (key, of_key) in reversed(list(enumerate(sorted(schema["properties"].items())))):
            head = self._term(f"{key if bare else json.dumps(key, ensure_ascii=False)}{between}")
            value = self._value(f"{name}_{number}", of_key, tool)
            member = self._add(f"{name}_{number}_member", f"{head} {value}")
            is_required = key in required
            first = self._add(f"{name}_{number}_first", f"{member} {rest}" + ("" if is_required else f" | {first}"))
            comma = self._term(self._style.comma)
            rest = self._add(
                f"{name}_{number}_rest", f"{comma} {member} {rest}" + ("" if is_required else f" | {rest}")
            )
        return first

    def _value(self, name: str, schema: Any, tool: Offered) -> str:
        if not isinstance(schema, Mapping) or not schema:
            return self._any()
        self._check(schema, tool)
        if "$ref" in schema:
            return self._ref(str(schema["$ref"]), tool)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else list(schema["enum"])
            return self._add(name, " | ".join(self._literal(value) for value in values))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._add(
                    name, " | ".join(self._value(f"{name}_{i}", s, tool) for i, s in enumerate(schema[key]))
                )
        kinds = schema.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if schema.get("nullable"):
            kinds = [*kinds, "null"]
        return self._add(
            name, " | ".join(self._of_kind(f"{name}_{i}", kind, schema, tool) for i, kind in enumerate(kinds))
        )

    def _of_kind(self, name: str, kind: Any, schema: Mapping[str, Any], tool: Offered) -> str:
        words = self._style.words
        if kind in _NUMBERS:
            return _NUMBERS[kind]
        if kind == "string":
            return self._string()
        if kind == "boolean":
            return f"({json.dumps(words[0])} | {json.dumps(words[1])})"
        if kind == "null":
            return json.dumps(words[2])
        if kind == "array":
            item, comma = self._value(f"{name}_item", schema.get("items"), tool), self._term(self._style.comma)
            return self._add(f"{name}_list", f'"[" ({item} ({comma} {item})*)? "]"')
        if kind == "object" and isinstance(schema.get("properties"), Mapping):
            members = self._members(f"{name}_of", schema, self._style.colon, tool, bare=self._style.has_bare_keys)
            return self._add(f"{name}_object", f'"{{" {members} "}}"')
        return self._any_object() if kind == "object" else self._any()

    def _ref(self, ref: str, tool: Offered) -> str:
        key = (tool.name, ref)
        if key not in self._refs:
            self._refs[key] = name = f"ref_{len(self._refs)}"
            target: Any = tool.parameters
            for part in ref.removeprefix("#").strip("/").split("/"):
                target = target.get(part) if isinstance(target, Mapping) else None
            if target is None or not ref.startswith("#/"):
                raise RequestError(f"{tool.name}: {ref[:80]!r} refers to nothing in its schema.")
            self._add(name, self._value(f"{name}_at", target, tool))
        return self._refs[key]

    def _literal(self, value: Any) -> str:
        """The one way to write a value."""
        style = self._style
        if isinstance(value, str):
            return self._term(
                f"{style.quote}{value}{style.quote}" if style.quote else json.dumps(value, ensure_ascii=False)
            )
        if value is None or isinstance(value, bool):
            return json.dumps(style.words[2 if value is None else 1 - value])
        if isinstance(value, int | float):
            return json.dumps(json.dumps(value))
        raise RequestError("enum: expected texts, numbers, true, false or null.")

    def _string(self) -> str:
        quote = self._style.quote
        if not quote:
            return self._add("any_string", json_rule({"type": "string"}))
        mark = self._term(quote)
        if mark.startswith('"'):
            self._rules.setdefault(f"any_text[suffix={mark}]", "/(?s:.*)/")
            return self._add("any_string", f"{mark} any_text")
        return self._add("any_string", f"{mark} /(?s:.*)/ {mark}")

    def _any(self) -> str:
        name = "any_value"
        if name not in self._rules:
            self._rules[name] = ""
            words = " | ".join(json.dumps(word) for word in self._style.words)
            comma = self._term(self._style.comma)
            self._rules[name] = (
                f'{self._string()} | {_NUMBERS["number"]} | {words} | "[" (any_value ({comma} any_value)*)? "]" | '
                f"{self._any_object()}"
            )
        return name

    def _any_object(self) -> str:
        if "any_object" not in self._rules:
            self._rules["any_object"] = ""
            self._rules["any_object"] = f'"{{" {self._any_members(self._style.colon)} "}}"'
        return "any_object"

    def _any_members(self, between: str) -> str:
        is_object = between == self._style.colon
        key = "/[^\\s{}\\[\\]():=,\"'<>]{1,256}/" if self._style.has_bare_keys or not is_object else self._string()
        member = self._add("any_member" if is_object else "any_argument", f"{key} {self._term(between)} {self._any()}")
        return f"({member} ({self._term(self._style.comma)} {member})*)?"

    def _add(self, name: str, rule: str) -> str:
        if len(self._rules) > _MOST_RULES:
            raise RequestError(f"tools: expected schemas of at most {_MOST_RULES} parts in all, got more.")
        self._rules[name] = rule
        return name

    def _check(self, schema: Mapping[str, Any], tool: Offered) -> None:
        """Refuse what a strict schema asks for and no rule here can hold a model to."""
        other = sorted(schema.keys() - _SAYS_NOTHING)
        if tool.strict and other:
            raise RequestError(f"{tool.name}: {other[0]!r} cannot be held to in this model's format. Leave it out.")
