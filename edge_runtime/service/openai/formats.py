"""The format of a text: as a client asks for it, and as grammars need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.service.openai.body import Body


class TextFormat(Body, tag_field="type", tag="text"):
    """Any text."""


class JsonFormat(Body, tag_field="type", tag="json_object"):
    """A JSON object."""


class JsonSchema(Body):
    """A JSON schema under a name; `schema` left out means any value."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: JsonSchema


class RegexFormat(Body, tag_field="type", tag="regex"):
    """Text that matches a regular expression."""

    pattern: str


DENSE = {"whitespace_flexible": False}
"""A model may pad JSON with white space for ever; without any, every token gets it nearer to its end."""


@dataclass(frozen=True)
class Format:
    """What the text must look like.

    Attributes:
        kind: 'json_object', 'json_schema' or 'regex'.
        schema: of json_schema.
        pattern: of regex.
    """

    kind: str
    schema: Mapping[str, Any] | None = None
    pattern: str = ""

    @property
    def json_schema(self) -> Mapping[str, Any]:
        """The schema of a text that is to be JSON."""
        return {"type": "object"} if self.kind == "json_object" else dict(self.schema or {})


ResponseFormat = TextFormat | JsonFormat | SchemaFormat | RegexFormat


def to_format(given: ResponseFormat) -> Format | None:
    """Return what a text must look like; None: any text will do."""
    match given:
        case JsonFormat():
            return Format("json_object")
        case SchemaFormat(json_schema=named):
            return Format("json_schema", named.schema or {})
        case RegexFormat(pattern=pattern):
            return Format("regex", pattern=pattern)
    return None
