"""gpt-oss: windows in every other layer, sinks, biases everywhere, experts in MXFP4."""

from __future__ import annotations

from typing import Any

from hobbit_export.gguf.architectures.family import Family, has_bias, plain
from hobbit_export.gguf.common import ModelKeys


def _read(found: ModelKeys) -> dict[str, Any]:
    config = plain(found)
    if config["rope_parameters"]["rope_type"] == "yarn":
        # as published: the bounds of YaRN are not rounded, of which a file says nothing
        config["rope_parameters"]["truncate"] = False
    config["num_local_experts"] = found.keys.required("expert_count")
    config["intermediate_size"] = found.keys.required("expert_feed_forward_length")
    config["sliding_window"] = found.keys.required("attention.sliding_window")
    config["attention_bias"] = has_bias(found)
    found.keys.count("feed_forward_length")  # of dense layers, of which there are none
    return config


FAMILIES = {"gpt-oss": Family("gpt_oss", _read)}
