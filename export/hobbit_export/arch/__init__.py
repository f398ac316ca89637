"""Model families: one file per `model_type`, each turning config.json into a ModelSpec and naming its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec, check_spec
from hobbit_export.arch import mixtral, olmoe, qwen2_moe, qwen3_moe
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.names import Names


class Adapter(Protocol):
    """What a family's module offers."""

    MODEL_TYPE: str
    DEFAULTS: dict[str, Any]
    NAMES: Names

    def read_spec(self, reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
        """Build the spec from config.json, refusing what is not implemented."""
        ...


ADAPTERS: dict[str, Adapter] = {m.MODEL_TYPE: m for m in (mixtral, olmoe, qwen2_moe, qwen3_moe)}


def read_model(config: dict[str, Any], generation: Mapping[str, Any]) -> tuple[ModelSpec, Names]:
    """Turn a parsed config.json (and generation_config.json, or {}) into a spec and the family's tensor names.

    Raises:
        ConfigError: unknown family, unsupported option or impossible size, by name.
    """
    model_type = config.get("model_type")
    if model_type not in ADAPTERS:
        supported = ", ".join(sorted(ADAPTERS))
        raise ConfigError(
            f"config.json: model_type: {str(model_type)[:60]!r} is not supported yet. Supported families: {supported}."
        )
    adapter = ADAPTERS[model_type]
    spec = adapter.read_spec(ConfigReader(config), generation)
    try:
        check_spec(spec, "config.json")
    except ValueError as err:
        raise ConfigError(f"{err}. This model cannot be exported.") from err
    require_supported(spec)
    return spec, adapter.NAMES
