"""Layers and head of a trunk as TensorRT engines. Implements `TrunkParts`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edge_runtime.backends.cpu.trunk.buffers import rope_numbers
from edge_runtime.backends.cpu.trunk.mask import fill_mask
from edge_runtime.backends.cpu.trunk.signature import Signature, head_signature, layer_signature, shared_signature
from edge_runtime.backends.cuda.driver import DeviceMemory, Stream
from edge_runtime.backends.cuda.tensorrt.building import PlanBuilder, profiles_for
from edge_runtime.backends.cuda.tensorrt.engine import LoadedEngine
from edge_runtime.backends.cuda.tensorrt.graph import Lowered, Value
from edge_runtime.backends.cuda.tensorrt.library import Library, make_logger
from edge_runtime.backends.cuda.tensorrt.modern import POSITION
from edge_runtime.backends.cuda.tensorrt.onnx_bytes import BITS, FLOAT
from edge_runtime.backends.cuda.tensorrt.plans import Plans
from edge_runtime.backends.cuda.trunk.buffers import TokenBuffers
from edge_runtime.backends.cuda.trunk.kv_cache import CudaKVCache
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import DeviceError, RequestError
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.part_names import trunk_file

_LOG = logging.getLogger(__name__)
_OTHER, _ZEROS, _NEW = "resid_other", "zeros", "new"


class EngineParts:
    """Engines of one bundle. They are built, or loaded, when it is known how many tokens a cache holds.

    Args:
        bundle: an open bundle whose parts were checked; `supported.why_not` has nothing against it.
        library: TensorRT.
        stream: orders all work.
        max_chunk: most tokens of a chunk.
        workspace_bytes: most memory plans are built in.
        make_builder: makes what builds plans within so much.

    Raises:
        DeviceError: an engine can neither be loaded nor built.
    """

    cache_item_bytes, reads_whole_caches = 4, True

    def __init__(
        self, bundle: Bundle, library: Library, stream: Stream, max_chunk: int, workspace_bytes: int,
        make_builder: Callable[[int], PlanBuilder],
    ) -> None:  # fmt: skip
        self._bundle, self._library, self._stream, self._chunk = bundle, library, stream, max_chunk
        self._workspace, self._make_builder = workspace_bytes, make_builder
        self._spec, self._ropes = bundle.manifest.model, rope_numbers(bundle.manifest.model)
        self._masks: list[tuple[int | None, bool]] = []
        self._context, self._lowered = 0, dict[str, Lowered]()
        self._engines: dict[str, LoadedEngine] = {}
        self._scratch: DeviceMemory | None = None
        self._nbytes, self.built = 0, 0
        self._taken: list[int] = []
        self._digest = hashlib.sha256()

    @property
    def nbytes(self) -> int:
        """See `TrunkParts.nbytes`: of the plans, which hold the weights."""
        return self._nbytes

    @property
    def build(self) -> str:
        """See `TrunkParts.build`: names the plans in use."""
        return self._digest.hexdigest()[:16]

    def prepare(self, context: int) -> None:
        """See `TrunkParts.prepare`: engines are built for one size of cache."""
        if self._context == context:
            return
        if self._context:
            raise RequestError(f"context: the engines are built for caches of {self._context} tokens, got {context}.")
        device = self._stream.device
        device.make_current()
        profiles = profiles_for(self._chunk, context)
        plans = Plans(self._bundle, self._library, device.facts, profiles, self._workspace, self._make_builder)
        runtime = self._library.module.Runtime(make_logger(self._library.module))
        for part, signature in self._parts():
            self._lowered[part] = plans.lowered(part, signature)
            self._engines[part] = self._load(plans, runtime, part)
        self._scratch = DeviceMemory(device, max(256, *(engine.scratch_bytes for engine in self._engines.values())))
        masks = (self._mask_of(i) for i in range(self._spec.num_layers))
        self._masks = list(dict.fromkeys(mask for mask in masks if mask is not None))
        self.cache_item_bytes = self._item_bytes()
        self._context = context

    def _item_bytes(self) -> int:
        """Return the bytes of a number in a cache, which all engines must agree on."""
        kinds = {v.kind for low in self._lowered.values() for name, v in low.inputs.items() if name.startswith("past_")}
        if len(kinds) > 1:
            raise DeviceError("TensorRT: layers keep numbers of different types. Use --backend cuda:trunk=cpu.")
        return BITS[next(iter(kinds), FLOAT)] // 8

    def _load(self, plans: Plans, runtime: object, part: str) -> LoadedEngine:
        kept = plans.kept(part)
        if kept is not None:
            try:
                return self._take(plans, runtime, kept, part)
            except DeviceError as err:
                _LOG.warning("tensorrt: %s It is built again.", err)
        done, all_parts = len(self._engines), sum(1 for _ in self._parts())
        _LOG.warning("tensorrt: building %s, %d of %d, once for this GPU and context", part, done + 1, all_parts)
        plan = plans.build(part, self._lowered[part])
        self.built += 1
        return self._take(plans, runtime, plan, part)

    def _take(self, plans: Plans, runtime: object, plan: bytes, part: str) -> LoadedEngine:
        """Load a plan. TensorRT allocates its weights by itself, so what they take is told to the device."""
        device = self._stream.device
        nbytes = len(plan) if device.integrated else 0
        engine, key = device.taken.take(nbytes, lambda: LoadedEngine(self._library.module, runtime, plan, part))
        self._taken.append(key)
        self._digest.update(plans.digest(part, plan))
        self._nbytes += len(plan)
        return engine

    def _parts(self) -> Iterator[tuple[str, Signature]]:
        spec = self._spec
        for i, layer in enumerate(spec.layers):
            yield trunk_file("layer", i), layer_signature(spec, i)
            if layer.shared is not None:
                yield trunk_file("shared", i), shared_signature(spec, i)
        yield trunk_file("head"), head_signature(spec)

    def widths(self, tokens: int) -> Mapping[str, int]:
        """See `TrunkParts.widths`."""
        spec = self._spec
        angles = {f"{name}{i}": rope.dim // 2 for i, rope in enumerate(spec.ropes) for name in ("cos", "sin")}
        masks = {f"mask{i}": self._context + tokens for i in range(len(self._masks))}
        states = [[array.numbers for array in spec.state_of(i)] for i in range(spec.num_layers)]
        new = {f"{_NEW}{j}": max(s[j] for s in states if len(s) > j) for j in range(max(map(len, states)))}
        stream = dict.fromkeys(("resid", _OTHER, _ZEROS, "x", "y"), spec.hidden)
        return {**stream, "router_logits": spec.num_experts, POSITION: 2, **angles, **masks, **new}

    def begin(self, at: TokenBuffers, kv: CudaKVCache, tokens: int) -> None:
        """See `TrunkParts.begin`: masks, the position, and a zero where a layer has no experts before it."""
        at.write(_ZEROS, np.zeros((tokens, self._spec.hidden), np.float32))
        at.write(POSITION, np.array([kv.length], np.int64))
        for i, (window, in_place) in enumerate(self._masks):
            mask = np.empty((tokens, kv.context + tokens), np.float32)
            fill_mask(mask, kv.length, window)
            if in_place:
                own = mask[:, kv.context :].copy()
                mask = np.ascontiguousarray(mask[:, : kv.context])
                mask[:, kv.length : kv.length + tokens] = own
            at.write(f"mask{i}", mask)

    def _mask_of(self, layer_idx: int) -> tuple[int | None, bool] | None:
        """Return the window of a layer and whether its engine writes the cache; None where it takes no mask."""
        low = self._lowered[trunk_file("layer", layer_idx)]
        window = getattr(self._spec.layers[layer_idx].attention, "window", None)
        return (window, POSITION in low.inputs) if "mask" in low.inputs else None

    def run_layer(self, layer_idx: int, at: TokenBuffers, kv: CudaKVCache, tokens: int, expert_out: int) -> None:
        """See `TrunkParts.run_layer`."""
        part = trunk_file("layer", layer_idx)
        low, arrays = self._lowered[part], kv.arrays(layer_idx)
        states = [array.name for array in self._spec.state_of(layer_idx)]
        where = {"resid": at.at(_resid(layer_idx)), "resid_out": at.at(_resid(layer_idx + 1)), "x": at.at("x")}
        where |= {
            "moe": expert_out or at.at(_ZEROS),
            "router_logits": at.at("router_logits"),
            POSITION: at.at(POSITION),
        }
        rope, mask = self._ropes[layer_idx], self._mask_of(layer_idx)
        where |= {} if mask is None else {"mask": at.at(f"mask{self._masks.index(mask)}")}
        where |= {} if rope is None else {name: at.at(f"{name}{rope}") for name in ("cos", "sin")}
        for j, (name, (address, *_)) in enumerate(zip(states, arrays, strict=True)):
            where |= {f"past_{name}": address, f"present_{name}": address, f"new_{name}": at.at(f"{_NEW}{j}")}
        self._run(part, where, tokens)
        for j, name in enumerate(states):
            if f"new_{name}" in low.outputs:
                kv.put(layer_idx, j, at.at(f"{_NEW}{j}"), tokens)

    def run_shared(self, layer_idx: int, at: TokenBuffers, tokens: int) -> None:
        """See `TrunkParts.run_shared`."""
        self._run(trunk_file("shared", layer_idx), {"x": at.at("x"), "y": at.at("y")}, tokens)

    def head(self, at: TokenBuffers, rows: tuple[int, int], expert_out: int, out: int) -> None:
        """See `TrunkParts.head`."""
        first, count = rows
        offset, resid = first * 4 * self._spec.hidden, at.at(_resid(self._spec.num_layers))
        where = {"resid": resid + offset, "moe": (expert_out or at.at(_ZEROS)) + offset}
        self._run(trunk_file("head"), where | {"logits": out}, count)

    def finish(self, logits: F32) -> F32:
        """See `TrunkParts.finish`: the engine does it all."""
        return logits

    def _run(self, part: str, where: Mapping[str, int], tokens: int) -> None:
        low, scratch = self._lowered[part], self._scratch
        assert scratch is not None, "no cache was made"
        sizes = {"T": tokens, "S": self._context, "S_plus_T": self._context + tokens}
        bound = {
            name: (where[name], _sized(value, sizes))
            for values in (low.inputs, low.outputs)
            for name, value in values.items()
        }
        self._stream.device.make_current()
        profile = 0 if tokens == 1 else 1
        self._engines[part].run(profile, bound, (scratch.address, scratch.nbytes), self._stream.handle)

    def close(self) -> None:
        """See `TrunkParts.close`."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        while self._taken:
            self._stream.device.taken.give_back(self._taken.pop())
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None


def _resid(layer_idx: int) -> str:
    """The residual stream that enters a layer: an engine does not write what it reads."""
    return _OTHER if layer_idx % 2 else "resid"


def _sized(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in value.dims)
