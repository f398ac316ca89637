"""The router's numbers in a trace (docs/trace.md): what a replay needs to route recorded logits as the model did."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np

from edge_runtime.base.checksum import crc32c
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.router_data import RouterData, router_arrays, router_data_of, router_parts

_CRC = struct.Struct("<I")


def recorded_model(spec: ModelSpec) -> ModelSpec:
    """Return the model as recorded logits have it: the bias of the logits is in them already."""
    return replace(spec, router=replace(spec.router, logit_bias=False))


def router_block_bytes(spec: ModelSpec) -> int:
    """Bytes of the block behind the header; 0 for routers that need logits alone."""
    size = sum(router_parts(recorded_model(spec)).values())
    return size + _CRC.size if size else 0


def pack_router(spec: ModelSpec, data: RouterData) -> bytes:
    """Return the block: the arrays in order, and their checksum."""
    if not router_block_bytes(spec):
        return b""
    arrays = router_arrays(recorded_model(spec))
    body = b"".join(np.asarray(getattr(data, name), kind).tobytes() for name, (kind, _) in arrays.items())
    return body + _CRC.pack(crc32c(body))


def unpack_router(spec: ModelSpec, raw: bytes) -> RouterData:
    """Read the block.

    Raises:
        ValueError: it is truncated or damaged, or holds what no router can use.
    """
    if len(raw) != router_block_bytes(spec):
        raise ValueError("router: the file is truncated")
    if not raw:
        return RouterData()
    body = raw[: -_CRC.size]
    if _CRC.unpack(raw[-_CRC.size :])[0] != crc32c(body):
        raise ValueError("router: checksum does not match (damaged)")
    model, arrays, at = recorded_model(spec), {}, 0
    for name, size in zip(router_arrays(model), router_parts(model).values(), strict=True):
        arrays[name] = body[at : at + size]
        at += size
    return router_data_of(model, arrays)
