"""GPTQ: integers of 2, 4 or 8 bits packed along the inputs, scales and zero points for groups of inputs.

Stored are qweight int32 [K * bits / 32, N], scales [G, N], qzeros int32 [G, N * bits / 32] and, where inputs were
ordered by activation, g_idx int32 [K]: the group of each input. weight[n, k] = scale[g, n] * (q[k, n] - zero[g, n]).
Version 1 stores every zero point less one, version 2 stores it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import ConfigError
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.columns import ColumnWeight, Packing
from hobbit_export.formats.config import QuantReader, pattern, refuse_ignored
from hobbit_export.formats.numbers import integers
from hobbit_export.formats.parts import SCALES, DecodedWeights, Parts

METHODS = ("gptq",)
_BITS = (2, 4, 8)
_VERSIONS = {"gptq": 1, "gptq_v2": 2}
_NEUTRAL = (
    "damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "model_name_or_path", "sym", "mse",
    "model_file_base_name", "meta", "use_exllama", "exllama_config", "use_cuda_fp16", "disable_exllama", "backend",
    "dataset", "tokenizer", "cache_block_outputs", "model_seqlen", "block_name_to_quantize", "batch_size",
    "module_name_preceding_first_block", "pad_token_id", "max_input_length", "lm_head", "modules_in_block_to_quantize",
    "act_group_aware", "parallel_packing", "offload_to_disk", "offload_to_disk_path", "pack_impl", "quant_method",
)  # fmt: skip
"""How the weights were found, or are to be run. Which are quantised, and around which zero, is read from themselves."""
_ZERO = (
    "a zero point of 0 in version 1, of which writers and readers differ. Convert the checkpoint to gptq_v2, or export "
    "another one."
)


class _Scheme(NamedTuple):
    """Options of one module. version: of the zero points."""

    bits: int
    group: int
    ordered: bool
    version: int


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    scheme = _scheme(reader)
    reader.fixed("is_marlin_format", False, None)
    reader.fixed("pack_dtype", "int32", None)
    reader.ignore(*_NEUTRAL)
    rules = _dynamic(reader)
    ignored = reader.words("modules_to_not_convert")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights()
    for module in parts.ending(".qweight"):
        options = next((rule for match, rule in rules if match.match(module)), {})
        if options is None:
            ignored.append(module)
        found.add(_weight(parts, module, scheme._replace(**(options or {}))))
    refuse_ignored(found.weights.values(), ignored)
    return found


def _scheme(reader: QuantReader) -> _Scheme:
    bits = reader.count("bits", None)
    if bits not in _BITS:
        raise reader.refuse("bits", bits, f"GPTQ is read at {', '.join(map(str, _BITS))} bits.")
    stated = [reader.get(key) for key in ("checkpoint_format", "format") if reader.get(key) is not None] or ["gptq"]
    for name in stated:
        if name not in list(_VERSIONS) or name != stated[0]:
            raise reader.refuse("checkpoint_format", name, f"Supported: {', '.join(_VERSIONS)}.")
    group = _group(reader.get("group_size", 128), f"{reader.where}: group_size")
    return _Scheme(bits, group, reader.flag("desc_act", False), _VERSIONS[stated[0]])


def _group(value: Any, where: str) -> int:
    if type(value) is not int or not (value == -1 or 0 < value <= 1 << 20):
        raise ConfigError(f"{where}: expected a size or -1, got {str(value)[:60]}.")
    return value


def _dynamic(reader: QuantReader) -> list[tuple[re.Pattern[str], dict[str, Any] | None]]:
    """Read options of modules whose name a pattern matches; None: such modules are not quantised."""
    rules: list[tuple[re.Pattern[str], dict[str, Any] | None]] = []
    stated = reader.get("dynamic") or {}
    where = f"{reader.where}: dynamic"
    if not isinstance(stated, dict) or not all(isinstance(value, dict) for value in stated.values()):
        raise ConfigError(f"{where}: expected an object of objects, got {str(stated)[:60]}.")
    for text, value in stated.items():
        inner = QuantReader(value, f"{where}[{text[:80]!r}]")
        options: dict[str, Any] = {}
        if "bits" in value:
            options["bits"] = inner.count("bits", None)
            inner.fixed("bits", *_BITS)
        if "group_size" in value:
            options["group"] = _group(inner.get("group_size"), f"{inner.where}: group_size")
        if "desc_act" in value:
            options["ordered"] = inner.flag("desc_act", False)
        inner.ignore("sym", "damp_percent", "mse")
        inner.finish()
        rules.append(
            (pattern(text.removeprefix("-:").removeprefix("+:"), where), None if text[:2] == "-:" else options)
        )
    return rules


def _weight(parts: Parts, module: str, scheme: _Scheme) -> ColumnWeight:
    bits, per_word = scheme.bits, 32 // scheme.bits
    words = parts.codes(f"{module}.qweight", ("I32",), (2,))
    inputs, n = words.info.shape[0] * per_word, words.info.shape[1]
    group = inputs if scheme.group == -1 else scheme.group
    groups = -(-inputs // group)
    scales = parts.get(f"{module}.scales", SCALES, (groups, n))
    zeros = parts.get(f"{module}.qzeros", ("I32",), (groups, -(-n // per_word)))
    order = f"{module}.g_idx"
    found = (parts.get if scheme.ordered else parts.optional)(order, ("I32", "I64"), (inputs,))
    packing = Packing(
        1, partial(_codes, bits=bits), partial(integers, bits=bits), per_word, _shift(bits, scheme.version)
    )
    kind = f"gptq with {bits} bits in groups of {group}"
    return ColumnWeight.of(module, (n, inputs), kind, packing, group, (words, scales, zeros, found))


def _codes(words: I32, bits: int) -> F32:
    return integers(words.T, bits)


def _shift(bits: int, version: int) -> Callable[[F32], F32]:
    largest = (1 << bits) - 1

    def version1(zeros: F32) -> F32:
        if zeros.size and float(zeros.max()) == largest:
            raise ValueError(_ZERO)
        return np.asarray(zeros + np.float32(1))

    return version1 if version == 1 else lambda zeros: zeros
