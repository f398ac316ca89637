"""The `gguf` package, imported here alone and only when a GGUF file is exported.

Two things of it are used: its tables of tensor names, and its decoders of quantised blocks. Its reader is not.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from edge_runtime.base.arrays import F32, U8
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.extras import install_extra


@cache
def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as err:
        raise ConfigError(f"GGUF: the package gguf is not installed. {install_extra('gguf')}") from err
    module: ModuleType = gguf
    return module


def tensor_names(architecture: str, names: list[str]) -> dict[str, str]:
    """Return the GGUF names of tensors of the first layer and of the whole model.

    Args:
        architecture: as `general.architecture` has it.
        names: as transformers has them, with ``.weight`` or ``.bias`` at the end.

    Returns:
        Name -> GGUF name; names that the architecture does not have are missing.
    """
    gguf = _package()
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in numbers:
        version = getattr(gguf, "__version__", "installed")
        raise ConfigError(
            f"GGUF: the package gguf ({version}) does not know the architecture {architecture!r}. Update it: "
            "pip install -U gguf"
        )
    found = gguf.get_tensor_name_map(numbers[architecture], 1)
    mapped = {name: found.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    return {name: value for name, value in mapped.items() if value is not None}


def decode(stored: U8, kind: str) -> F32:
    """Decode blocks of a quantised type.

    Args:
        stored: uint8 [..., bytes of whole blocks].
        kind: name of the type.

    Returns:
        float32 [..., weights].
    """
    gguf = _package()
    numbers: Any = gguf.GGMLQuantizationType
    with np.errstate(all="ignore"):  # a scale that is no number is found in what comes out
        values: F32 = gguf.quants.dequantize(stored, numbers[kind])
    return values
