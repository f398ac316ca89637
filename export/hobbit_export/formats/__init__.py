"""Quantised sources: one file a format, each finding its weights among the tensors of a checkpoint.

Registered here by `quant_method` of config.json. A format gives every weight the name it would have unquantised, so
adapters know nothing of formats. Values are decoded to float32 exactly as the format defines them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError, did_you_mean
from hobbit_export.arch.names import LeftOut
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats import awq, compressed, fp8, gptq, modelopt, mxfp4
from hobbit_export.formats.config import WHERE, QuantReader
from hobbit_export.formats.parts import DecodedWeights
from hobbit_export.weights import Weight, plain_weights

METHODS: dict[str, Callable[[Checkpoint, QuantReader], DecodedWeights]] = {
    method: module.find for module in (awq, compressed, fp8, gptq, modelopt, mxfp4) for method in module.METHODS
}
MARKS = (".qweight", ".weight_packed", "_blocks", "_scale_inv", ".weight_scale")
PARTS = (
    *MARKS, ".qzeros", ".scales", ".g_idx", "_scales", ".weight_scale_2", ".weight_global_scale", ".weight_shape",
    ".weight_zero_point", ".weight_g_idx",
)  # fmt: skip
"""Ends of names of stored tensors that mean nothing on their own."""


def find_weights(
    checkpoint: Checkpoint, quantisation: dict[str, Any] | None
) -> tuple[dict[str, Weight], tuple[LeftOut, ...]]:
    """Return every weight of a checkpoint by the name adapters know, and what of its tensors is not needed.

    Args:
        checkpoint: all stored tensors.
        quantisation: `quantization_config` of config.json; None: nothing is quantised.

    Raises:
        ConfigError: a method or an option of it is not supported.
        BundleError: a part of a weight is missing, misshapen or of a wrong type.
    """
    weights = plain_weights(checkpoint)
    if quantisation is None:
        _refuse_unannounced(checkpoint)
        return weights, ()
    found = find(checkpoint, quantisation)
    for name in found.used:
        del weights[name]
    for name in weights:
        if name.endswith(PARTS):
            raise BundleError(
                f"{weights[name].file.name}: tensor {name!r}: a part of a quantised weight whose other parts are "
                "missing. Download the checkpoint again."
            )
    for name, weight in found.weights.items():
        if name in weights:
            raise BundleError(f"{weight.file.name}: tensor {name!r}: is stored in two ways. Remove one of them.")
        weights[name] = weight
    return weights, found.left_out


def find(checkpoint: Checkpoint, quantisation: dict[str, Any]) -> DecodedWeights:
    """Find the quantised weights of a checkpoint, by the method that its configuration names.

    Raises:
        ConfigError: the method or an option of it is not supported.
        BundleError: a part of a weight is missing, misshapen or of a wrong type.
    """
    reader = QuantReader(quantisation)
    method = reader.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            f"{WHERE}: quant_method: expected one of {', '.join(sorted(METHODS))}, got {str(method)[:60]!r}."
            f"{did_you_mean(str(method), METHODS)} Or export from the unquantised checkpoint."
        )
    return METHODS[method](checkpoint, reader)


def _refuse_unannounced(checkpoint: Checkpoint) -> None:
    for name, info in checkpoint.tensors.items():
        if name.endswith(MARKS) or info.dtype.startswith("F8"):
            raise BundleError(
                f"{info.file.name}: tensor {name!r}: looks quantised, but config.json has no quantization_config that "
                "says how. Download config.json again, or export from the unquantised checkpoint."
            )
