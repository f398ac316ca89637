"""Model families: one file per `model_type`, each turning config.json into a ModelSpec and naming its tensors.

A family from elsewhere is registered by `register`, or found as an entry point of the group `hobbit_edge.families`
whose name is its `model_type` and whose object is its adapter. See docs/adding-a-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import ModelSpec, check_spec
from hobbit_export.arch import (
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5_moe,
    gemma4,
    gemma4_text,
    glm4_moe,
    glm4_moe_lite,
    gpt_oss,
    granitemoe,
    granitemoehybrid,
    granitemoeshared,
    hunyuan_v1_moe,
    kimi_linear,
    lfm2_moe,
    minimax_m2,
    mixtral,
    nemotron_h,
    olmoe,
    phimoe,
    qwen2_moe,
    qwen3_5_moe,
    qwen3_5_moe_text,
    qwen3_moe,
    qwen3_next,
    qwen3_vl_moe,
)
from hobbit_export.arch.config import ConfigReader, without
from hobbit_export.arch.names import Names


class Adapter(Protocol):
    """What a family's module offers."""

    MODEL_TYPE: str
    DEFAULTS: dict[str, Any]
    NAMES: Names

    def read_spec(self, reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
        """Build the spec from config.json, refusing what is not implemented."""
        ...


ENTRY_POINTS = "hobbit_edge.families"
_FAMILIES = (
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5_moe,
    gemma4,
    gemma4_text,
    glm4_moe,
    glm4_moe_lite,
    gpt_oss,
    granitemoe,
    granitemoehybrid,
    granitemoeshared,
    hunyuan_v1_moe,
    kimi_linear,
    lfm2_moe,
    minimax_m2,
    mixtral,
    nemotron_h,
    olmoe,
    phimoe,
    qwen2_moe,
    qwen3_5_moe,
    qwen3_5_moe_text,
    qwen3_moe,
    qwen3_next,
    qwen3_vl_moe,
)
ADAPTERS: dict[str, Adapter] = {m.MODEL_TYPE: m for m in _FAMILIES}


def register(adapter: Adapter) -> None:
    """Make a family known by its `MODEL_TYPE`.

    Raises:
        ConfigError: the name is taken.
    """
    if adapter.MODEL_TYPE in ADAPTERS:
        raise ConfigError(f"family {adapter.MODEL_TYPE!r}: is registered already. Choose another name.")
    ADAPTERS[adapter.MODEL_TYPE] = adapter


def find_adapter(config: Mapping[str, Any]) -> Adapter:
    """Return the adapter of a configuration's family: one of this package, a registered one, or that of an entry point.

    Raises:
        ConfigError: nobody knows the family, or its entry point offers no adapter.
    """
    name = str(config.get("model_type"))
    if name in ADAPTERS:
        return ADAPTERS[name]
    installed = {found.name: found for found in entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return _load(installed[name])
    supported = ", ".join(sorted({*ADAPTERS, *installed}))
    is_moe = not isinstance(config.get("model_type"), str) or "moe" in name.lower() or _has_experts(config)
    what = "is not supported yet" if is_moe else "is a dense model: it has no experts to stream"
    raise ConfigError(f"config.json: model_type: {name[:60]!r} {what}. Supported families: {supported}.")


def _load(found: EntryPoint) -> Adapter:
    where = f"family {found.name!r}, entry point {found.value!r}"
    try:
        adapter: Adapter = found.load()
    except (ImportError, AttributeError) as err:
        raise ConfigError(f"{where}: cannot be loaded: {err}. Install its package again.") from err
    missing = [name for name in ("MODEL_TYPE", "NAMES", "read_spec") if not hasattr(adapter, name)]
    if missing or found.name != adapter.MODEL_TYPE:
        what = f"without {missing[0]}" if missing else f"of {adapter.MODEL_TYPE!r}"
        raise ConfigError(f"{where}: expected the adapter of this family, got one {what}.")
    return adapter


def read_model(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    ignore_keys: Sequence[str] = (),
    where: str = "config.json",
) -> tuple[ModelSpec, Names]:
    """Turn a parsed config.json (and generation_config.json, or {}) into a spec and the family's tensor names.

    Args:
        config: config.json.
        generation: generation_config.json.
        ignore_keys: keys of config.json that the user wants read as if they were not there.
        where: file the configuration comes from, for messages.

    Raises:
        ConfigError: unknown family, unsupported option or impossible size, by name.
    """
    config = without(config, ignore_keys)
    adapter = find_adapter(config)
    spec = adapter.read_spec(ConfigReader(config, where), generation)
    try:
        check_spec(spec, where)
    except ValueError as err:
        raise ConfigError(f"{err}. This model cannot be exported.") from err
    require_supported(spec)
    return spec, adapter.NAMES


def _has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of any family, or one inside it, counts experts."""
    inner = [value for value in config.values() if isinstance(value, dict)]
    counts = [value for key, value in config.items() if "experts" in key and type(value) is int]
    return any(count > 1 for count in counts) or any(map(_has_experts, inner))
