"""model_type granitemoeshared: granitemoe with a network that every token passes beside its experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_runtime.base.spec import ModelSpec
from hobbit_export.arch import granitemoe
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.names import block_of

MODEL_TYPE = "granitemoeshared"
DEFAULTS: dict[str, Any] = {**granitemoe.DEFAULTS, "shared_intermediate_size": 0}
NAMES = replace(
    granitemoe.NAMES,
    layer={
        **granitemoe.NAMES.layer,
        "shared_gate_proj": block_of("shared_mlp.input_linear.weight", 0, 2),
        "shared_up_proj": block_of("shared_mlp.input_linear.weight", 1, 2),
        "shared_down_proj": "shared_mlp.output_linear.weight",
    },
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    shared = reader.count("shared_intermediate_size", DEFAULTS["shared_intermediate_size"], minimum=0)
    spec = granitemoe.read_decoder(reader, generation, MODEL_TYPE, shared)
    reader.finish()
    return spec
