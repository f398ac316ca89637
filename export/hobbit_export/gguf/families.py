"""Families that are read from GGUF: the architecture's name there, its configuration, and what conversion changed.

Tensor names come from the tables of the `gguf` package. Where a file leaves something out, the value is the one
llama.cpp computes with: whether the weights of the chosen experts are renormalised, for instance.
"""

from __future__ import annotations

from edge_runtime.base.errors import ConfigError
from hobbit_export.gguf.architectures import (
    decoders,
    deepseek,
    gemma,
    gpt_oss,
    kimi,
    lfm2,
    llama,
    mamba,
    qwen,
    qwen_hybrid,
)
from hobbit_export.gguf.architectures.family import Family
from hobbit_export.gguf.common import ModelKeys

_FILES = (decoders, deepseek, gemma, gpt_oss, kimi, lfm2, llama, mamba, qwen, qwen_hybrid)
FAMILIES: dict[str, Family] = {name: family for file in _FILES for name, family in file.FAMILIES.items()}


def family_of(architecture: str, found: ModelKeys) -> Family:
    """Return the family of an architecture.

    Raises:
        ConfigError: it is not read, or a dense model.
    """
    where, known = f"{found.keys.where}: general.architecture: {architecture[:60]!r}", ", ".join(sorted(FAMILIES))
    if not found.keys.count("expert_count"):
        raise ConfigError(f"{where} is a dense model: it has no experts to stream. Supported architectures: {known}.")
    if architecture not in FAMILIES:
        raise ConfigError(
            f"{where} is not read from GGUF yet. Supported architectures: {known}. Of others give the safetensors "
            "checkpoint."
        )
    return FAMILIES[architecture]
