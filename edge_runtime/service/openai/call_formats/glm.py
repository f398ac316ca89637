"""GLM 4.5 to 4.7: name, then ``<arg_key>`` and ``<arg_value>`` in turn, between ``<tool_call>`` marks.

4.5 and 4.6 break the line after the name and after each of them, 4.7 does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.service.openai.call_formats.base import (
    Delimiters,
    Function,
    Offered,
    Schemas,
    Term,
    function_rules,
    properties_of,
    quoted,
    value_of,
)

_NAME = re.compile(r"\s*([\w.:-]{1,256})\s*")
_ARGUMENT = re.compile(r"\s*<arg_key>([^<>]{1,256})</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


@dataclass(frozen=True)
class Glm:
    """The format.

    Attributes:
        gap: what stands after the name, a key and a value.
    """

    gap: str
    opens: str = "<tool_call>"
    closes: str = "</tool_call>"
    prefix: str = "<tool_call>"
    suffix: str = "</tool_call>"

    def read(self, text: str, schemas: Schemas) -> list[Function] | None:
        """Read one call."""
        head = _NAME.match(text)
        if head is None:
            return None
        name, arguments, at = head[1], {}, head.end()
        known = properties_of(schemas, name)
        while found := _ARGUMENT.match(text, at):
            key = found[1].strip()
            arguments[key] = value_of(found[2], known.get(key))
            at = found.end()
        return None if text[at:].strip() else [Function(name, json.dumps(arguments))]

    def rules(self, tools: Sequence[Offered], term: Term) -> str:
        """Return the grammar of a name with its arguments."""
        delimiters = Delimiters("<arg_key>", f"</arg_key>{self.gap}<arg_value>", f"</arg_value>{self.gap}")
        return function_rules(tools, delimiters, lambda name: quoted(name + self.gap))


def of_template(template: str) -> Glm | None:
    """Return the format if a template has its marks."""
    if "<arg_key>" not in template or "<arg_value>" not in template or "<tool_call>" not in template:
        return None
    return Glm("" if "</arg_key><arg_value>" in template else "\n")
