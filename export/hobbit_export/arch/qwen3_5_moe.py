"""model_type qwen3_5_moe: a qwen3_5_moe_text beside a vision tower, which is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import qwen3_5_moe_text as text
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.nested import text_config

MODEL_TYPE = "qwen3_5_moe"
DEFAULTS, NAMES = text.DEFAULTS, text.NAMES


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    return replace(text.read_spec(text_config(reader, tied=False), generation), family=MODEL_TYPE)
