"""The JSON Schema of a device profile, from the table of options. Published as profiles/schema.json, for editors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edge_runtime.config.option import AUTO, Option
from edge_runtime.config.options import ENGINE_OPTIONS

_BASIS = {"enum": ["measured", "assumed"]}
_TEXT = {"type": "string"}
_RATE = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}


def profile_schema(table: Collection[Option] = ENGINE_OPTIONS) -> dict[str, Any]:
    """Return the schema (draft 2020-12)."""
    options = {option.name: _setting(_value(option), _about(option)) for option in table if option.in_profile}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Device profile of Hobbit Edge",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "board", "ran_on_hardware", "drive_read_gb_s", "memory_read_gb_s"],
        "properties": {
            "name": _TEXT | {"description": "name of the profile"},
            "board": _TEXT | {"description": "what it is for"},
            "ran_on_hardware": {"type": "boolean", "description": "whether anybody ran this profile on that board"},
            **options,
            "drive_read_gb_s": _setting(_RATE, "sequential read rate of the drive in GB/s, for estimates"),
            "memory_read_gb_s": _setting(_RATE, "read rate of memory in GB/s, for estimates"),
            "power_modes": {"type": "array", "items": _POWER_MODE, "description": "as `nvpmodel -q` names them"},
        },
    }


_POWER_MODE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {"name": _TEXT, "watts": {"type": ["number", "null"]}},
}


def _setting(value: dict[str, Any], about: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": about,
        "additionalProperties": False,
        "required": ["value", "basis"],
        "properties": {"value": value, "basis": _BASIS, "note": _TEXT},
    }


def _value(option: Option) -> dict[str, Any]:
    return {"anyOf": [option.kind.schema(), {"const": AUTO}]} if option.auto else option.kind.schema()


def _about(option: Option) -> str:
    unit = f", {option.unit}" if option.unit else ""
    return f"{option.help}{unit} (default: {option.shown_default})"
