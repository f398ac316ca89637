"""MXFP4 experts as gpt-oss publishes them: E2M1 codes in blocks of 32 inputs, each with a power of two."""

from __future__ import annotations

from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.config import QuantReader, refuse_ignored
from hobbit_export.formats.grid import GridWeight, Scales
from hobbit_export.formats.numbers import e2m1
from hobbit_export.formats.parts import DecodedWeights, Parts

METHODS = ("mxfp4",)
BLOCK = 32
_CODES, _SCALES = "_blocks", "_scales"


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Adapters know experts of gpt-oss with inputs before outputs, as bfloat16 has them; blocks lie along the inputs, so
    these are stored the other way.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    ignored = reader.words("modules_to_not_convert")
    reader.ignore("dequantize")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights()
    for name in parts.ending(_CODES):
        codes = parts.codes(name + _CODES, ("U8",), (4,))
        experts, n, blocks, _ = codes.info.shape
        parts.get(name + _CODES, ("U8",), (experts, n, blocks, BLOCK // 2))
        scales = Scales(parts.get(name + _SCALES, ("U8",), (experts, n, blocks)), 1, BLOCK)
        weight = GridWeight.of(
            name, (experts, n, blocks * BLOCK), "mxfp4", codes.reshaped(experts, n, blocks * BLOCK // 2), e2m1, scales
        )  # fmt: skip
        found.add(weight.transposed())
    refuse_ignored(found.weights.values(), ignored)
    return found
