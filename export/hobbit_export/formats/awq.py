"""AWQ as its "gemm" kernels store it: 4-bit integers packed along the outputs, in an order of their own.

Stored are qweight int32 [K, N / 8], qzeros int32 [G, N / 8] and scales [G, N]; weight[n, k] = scale[g, n] *
(q[k, n] - zero[g, n]) with the zero point as it is stored. Of eight outputs of a word, field i holds number ORDER[i].
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, I32
from hobbit_export.checkpoint import Checkpoint
from hobbit_export.formats.columns import ColumnWeight, Packing
from hobbit_export.formats.config import QuantReader, refuse_ignored
from hobbit_export.formats.parts import SCALES, DecodedWeights, Parts

METHODS = ("awq",)
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_FIELD_OF = np.argsort(ORDER)
_PER_WORD = 8


def find(checkpoint: Checkpoint, reader: QuantReader) -> DecodedWeights:
    """Find the weights of a checkpoint in this format.

    Raises:
        ConfigError: an option is not supported.
        BundleError: a part is missing, misshapen or of a wrong type.
    """
    for bits in ("bits", "w_bit"):
        reader.fixed(bits, 4)
    reader.fixed("zero_point", True)
    for version in ("version", "format"):
        reader.fixed(version, "gemm", "GEMM", None)
    spelling = "q_group_size" if "q_group_size" in reader.data else "group_size"
    group = reader.get(spelling, 128)
    if group != -1:
        group = reader.count(spelling, 128)
    reader.ignore(
        "do_fuse", "modules_to_fuse", "fuse_max_seq_len", "backend", "exllama_config", "quant_method", "desc_act",
        "sym", "meta", "true_sequential", "damp_percent", "lm_head", "model_seqlen", "tokenizer", "dataset",
    )  # fmt: skip
    ignored = reader.words("modules_to_not_convert")
    reader.finish()
    parts, found = Parts(checkpoint), DecodedWeights()
    for module in parts.ending(".qweight"):
        found.add(_weight(parts, module, group))
    refuse_ignored(found.weights.values(), ignored)
    return found


def _weight(parts: Parts, module: str, size: int) -> ColumnWeight:
    words = parts.codes(f"{module}.qweight", ("I32",), (2,))
    inputs, n = words.info.shape[0], words.info.shape[1] * _PER_WORD
    group = inputs if size == -1 else size
    groups = -(-inputs // group)
    scales = parts.get(f"{module}.scales", SCALES, (groups, n))
    zeros = parts.get(f"{module}.qzeros", ("I32",), (groups, n // _PER_WORD))
    packing = Packing(_PER_WORD, _codes, lambda found: _codes(found).T, _PER_WORD)
    kind = f"awq with 4 bits in groups of {group}"
    return ColumnWeight.of(module, (n, inputs), kind, packing, group, (words, scales, zeros, None))


def _codes(words: I32) -> F32:
    """Unpack [r, c] words to the codes [8 c, r] of the outputs in their order."""
    turned = np.ascontiguousarray(words.T)
    out = np.empty((len(turned), _PER_WORD, turned.shape[1]), np.float32)
    for number, field in enumerate(_FIELD_OF):
        out[:, number] = turned >> (4 * int(field)) & 15
    return out.reshape(-1, turned.shape[1])
