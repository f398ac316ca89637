"""compressed-tensors: integers packed in words or as they are, FP8, MXFP4 and NVFP4, by groups of modules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.compressed_weights import Scheme, module_weight
from hobbit_export.formats.config import QuantReader, pattern, refuse_ignored
from hobbit_export.formats.parts import ACTIVATIONS, DecodedWeights, Parts

METHODS = ("compressed-tensors",)
_FORMATS = (
    "pack-quantized", "float-quantized", "naive-quantized", "int-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mixed-precision", "dense",
)  # fmt: skip
_CLASSES = {"Linear", "MoELinear", "FusedMoE"}
"""Targets that mean every matrix."""
_CODES = (".weight_packed", ".weight")


@dataclass(frozen=True)
class _Group:
    """Modules and what is done to them."""

    patterns: tuple[re.Pattern[str], ...]
    names: frozenset[str]
    all: bool
    scheme: Scheme

    def names_it(self, module: str) -> bool:
        """Whether a target is this module, by name or pattern."""
        return module in self.names or any(p.match(module) for p in self.patterns)


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    reader.fixed("quantization_status", "compressed", "frozen", None)
    stated = reader.get("format", "dense")
    reader.fixed("format", *_FORMATS)
    for key in ("sparsity_config", "transform_config"):
        reader.fixed(key, {}, None)
    reader.ignore("global_compression_ratio", "kv_cache_scheme", "version", "quant_method")
    groups = _groups(reader, stated)
    ignored = reader.words("ignore")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights(left_out=(ACTIVATIONS,))
    for module in sorted(set().union(*(_modules(parts, suffix) for suffix in _CODES))):
        found.add(module_weight(parts, module, _scheme(groups, module, reader.where)))
    refuse_ignored(found.weights.values(), ignored)
    return found


def _modules(parts: Parts, suffix: str) -> set[str]:
    """Modules with quantised codes under this name: packed ones, or a weight with scales beside it."""
    return {m for m in parts.ending(suffix) if suffix == _CODES[0] or f"{m}.weight_scale" in parts.tensors}


def _scheme(groups: list[_Group], module: str, where: str) -> Scheme:
    named = [group for group in groups if group.names_it(module)] or [group for group in groups if group.all]
    if len(named) != 1:
        raise BundleError(
            f"{where}: config_groups: expected one group for {module!r}, which is quantised, found {len(named)}."
        )
    return named[0].scheme


def _groups(reader: QuantReader, stated: str) -> list[_Group]:
    groups = reader.get("config_groups")
    where = f"{reader.where}: config_groups"
    if not isinstance(groups, dict) or not groups or not all(isinstance(g, dict) for g in groups.values()):
        raise ConfigError(f"{where}: expected an object of objects, got {str(groups)[:60]}.")
    return [_group(QuantReader(group, f"{where}.{name[:40]}"), stated) for name, group in groups.items()]


def _group(reader: QuantReader, stated: str) -> _Group:
    targets = reader.words("targets")
    own = reader.get("format")
    kind = stated if own is None else own
    if kind not in _FORMATS or kind in ("mixed-precision", "dense"):
        raise reader.refuse("format", kind, f"Supported: {', '.join(_FORMATS[:-2])}.")
    reader.ignore("input_activations", "output_activations")
    weights = reader.get("weights")
    if not isinstance(weights, dict):
        raise ConfigError(f"{reader.where}: weights: expected an object, got {str(weights)[:60]}.")
    patterns = tuple(pattern(t[3:], reader.where) for t in targets if t.startswith("re:"))
    names = frozenset(t for t in targets if not t.startswith("re:"))
    scheme = _weights(QuantReader(weights, f"{reader.where}: weights"), kind)
    reader.finish()
    return _Group(patterns, names, bool(names & _CLASSES), scheme)


def _weights(reader: QuantReader, kind: str) -> Scheme:
    bits, number = reader.count("num_bits", None), reader.get("type", "int")
    reader.fixed("type", "int", "float")
    reader.fixed("dynamic", False, None)
    allowed = {"pack-quantized": (("int", 4), ("int", 8)), "int-quantized": (("int", 8),),
               "float-quantized": (("float", 8),), "naive-quantized": (("int", 8), ("float", 8))}  # fmt: skip
    if (number, bits) not in allowed.get(kind, (("float", 4),)):
        raise reader.refuse("num_bits", bits, f"{kind} of {number} is not read at {bits} bits.")
    strategy = reader.get("strategy")
    reader.fixed("strategy", "group", "tensor_group", "channel", "tensor", "block", None)
    group = reader.get("group_size")
    if group is not None and group != -1:
        group = reader.count("group_size", None)
    block = reader.get("block_structure")
    if strategy == "block" and not (
        isinstance(block, list) and len(block) == 2 and all(type(n) is int and 0 < n <= 1 << 20 for n in block)
    ):
        raise ConfigError(f"{reader.where}: block_structure: expected two sizes, got {str(block)[:60]}.")
    symmetric = reader.flag("symmetric", True)
    reader.ignore("actorder", "observer", "observer_kwargs", "scale_dtype", "zp_dtype")
    reader.finish()
    if strategy is None:
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    if strategy in ("group", "tensor_group") and not (group and group > 0):
        raise ConfigError(f"{reader.where}: group_size: expected a size for strategy {strategy!r}, got {group}.")
    return Scheme(kind, number, bits, strategy, group or 0, tuple(block or ()), symmetric)
