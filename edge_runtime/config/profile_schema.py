"""The JSON Schema of a device profile, from the table of options. Published as profiles/schema.json, for editors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edge_runtime.config.option import AUTO, Option
from edge_runtime.config.options import ENGINE_OPTIONS
from edge_runtime.config.profile_values import FACTS, FORMAT

_TEXT = {"type": "string"}
_SAID = {"type": "string", "pattern": r"\S"}
_PROVENANCE: dict[str, dict[str, Any]] = {
    "default": {},
    "assumed": {"source": _SAID},
    "measured": {"when": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}"}, "how": _SAID},
}
"""What has to be said along with each basis."""


def profile_schema(table: Collection[Option] = ENGINE_OPTIONS) -> dict[str, Any]:
    """Return the schema (draft 2020-12) of the present format."""
    options = {option.name: _setting(_value(option), _about(option)) for option in table if option.in_profile}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Device profile of Hobbit Edge",
        "type": "object",
        "additionalProperties": False,
        "required": [
            "format", "name", "board", "ran_on_hardware", *(name for name, kind in FACTS.items() if kind.is_required)
        ],
        "properties": {
            "format": {"const": FORMAT, "description": "version of the format"},
            "name": _TEXT | {"description": "name of the profile"},
            "board": _TEXT | {"description": "what it is for"},
            "ran_on_hardware": {"type": "boolean", "description": "whether anybody ran this profile on that board"},
            "match": _MATCH,
            "tuned_for": _TUNED_FOR,
            **options,
            **{name: _setting(kind.schema, kind.about) for name, kind in FACTS.items()},
            "power_modes": {"type": "array", "items": _POWER_MODE, "description": "as `nvpmodel -q` names them"},
        },
    }  # fmt: skip


def _object(about: str, required: list[str], **properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "additionalProperties": False}
    found |= {"description": about} if about else {}
    return found | {"required": required, "properties": properties}


_NUMBER_OR_NULL = {"type": ["number", "null"]}
_POWER_MODE = _object(
    "", ["name"], name=_TEXT, watts=_NUMBER_OR_NULL, id={"type": ["integer", "null"]},
    kind={"enum": ["nvpmodel", "governor"]},
)  # fmt: skip
_WORDS = {"type": "array", "items": _TEXT}
_MATCH = _object(
    "how --profile auto recognises the board", [], compatible=_WORDS, models=_WORDS,
    is_super={"type": ["boolean", "null"]}, memory_gib={"type": "array", "items": {"type": "number"}}, machines=_WORDS,
)  # fmt: skip
_TUNED_FOR = _object("what a program measured it on", ["fingerprint"], fingerprint=_TEXT, based_on=_TEXT, version=_TEXT)


def _setting(value: dict[str, Any], about: str) -> dict[str, Any]:
    forms = []
    for basis, needed in _PROVENANCE.items():
        free = dict.fromkeys(("note", "source", "when", "how"), _TEXT)
        properties = {"value": value, "basis": {"const": basis}, **free, **needed}
        forms.append(_object("", ["value", "basis", *needed], **properties))
    return {"description": about, "anyOf": forms}


def _value(option: Option) -> dict[str, Any]:
    return {"anyOf": [option.kind.schema(), {"const": AUTO}]} if option.auto else option.kind.schema()


def _about(option: Option) -> str:
    unit = f", {option.unit}" if option.unit else ""
    return f"{option.help}{unit} (default: {option.shown_default})"
