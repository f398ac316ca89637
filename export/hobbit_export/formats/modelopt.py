"""What NVIDIA's ModelOpt writes: NVFP4, and FP8 with one scale a tensor."""

from __future__ import annotations

from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.config import QuantReader, refuse_ignored
from hobbit_export.formats.fp8 import fp8_weight
from hobbit_export.formats.nvfp4 import nvfp4_weight
from hobbit_export.formats.parts import ACTIVATIONS, DecodedWeights, Parts

METHODS = ("modelopt",)


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    reader.fixed("quant_algo", "NVFP4", "FP8", "MIXED_PRECISION", None)
    reader.ignore("producer", "kv_cache_scheme", "kv_cache_quant_algo", "config_groups", "group_size", "quant_method")
    ignored = reader.words("ignore", "exclude_modules")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights(left_out=(ACTIVATIONS,))
    for name, info in checkpoint.tensors.items():
        if info.dtype == "F8_E4M3" and name.endswith(".weight"):
            found.add(fp8_weight(parts, name, None))
        elif info.dtype == "U8" and name.endswith(".weight"):
            found.add(nvfp4_weight(parts, name, name, f"{name}_scale", f"{name}_scale_2", divide=False))
    refuse_ignored(found.weights.values(), [one if one.startswith("re:") else one.rstrip("*.") for one in ignored])
    return found
