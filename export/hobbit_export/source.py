"""A checkpoint matched with its family: every canonical weight and expert matrix found, every tensor accounted for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import Matrix, ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.router_data import RouterData, router_arrays, router_data_of
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from hobbit_export.arch import read_model
from hobbit_export.arch.decoder import GENERATION
from hobbit_export.arch.names import ExpertLayout, RowRange
from hobbit_export.checkpoint import RAW_DTYPES, Checkpoint, is_finite, read_json, to_f32
from hobbit_export.generation import sampling_defaults
from hobbit_export.matching import INTEGERS, Omitted, account_for, match_experts, match_router, match_trunk
from hobbit_export.tokenizer_files import eos_token_id

_CONVERT_BYTES = 4 << 20
"""Widened at a time, so that a large matrix exists once, not in every step of its conversion."""
_MOST_EXPERTS = 1 << 14
_SAMPLE_BYTES, _SAMPLE_EVERY_BYTES = 4 << 10, 4 << 20


@dataclass(frozen=True)
class SourceModel:
    """The source of an export.

    Attributes:
        trunk: canonical name -> tensor name.
        router: the same of what a router adds to its matrix.
        layouts: sparse layer -> how its experts are stored.
        left_out: what of the checkpoint is not exported, and why.
        sampling: how the model wants to be sampled.
    """

    spec: ModelSpec
    checkpoint: Checkpoint
    config_sha256: str
    trunk: dict[str, str]
    router: dict[str, str]
    layouts: dict[int, ExpertLayout]
    left_out: tuple[Omitted, ...] = ()
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    @staticmethod
    def open(path: Path) -> SourceModel:
        """Read config and headers of a checkpoint folder and match them, before any weight is read.

        Raises:
            ConfigError: not a checkpoint, or an option or family that is not supported.
            BundleError: a tensor is missing, unexpected, misshapen or of a type that cannot be exported.
        """
        checkpoint = Checkpoint.open(path)
        config = read_json(path / "config.json")
        digest = file_sha256(path / "config.json")
        generation_file = path / GENERATION
        generation = read_json(generation_file) if generation_file.exists() else {}
        spec, names = read_model(config, generation)
        own = eos_token_id(path)
        if own is not None and own < spec.vocab_size and own not in spec.eos_token_ids:
            spec = replace(spec, eos_token_ids=[*spec.eos_token_ids, own])
        if spec.tied_embeddings and names.candidates("head")[0] in checkpoint.tensors:
            # transformers ties only what is missing or equal: a head that is there is used unchanged
            spec = replace(spec, tied_embeddings=False)
        trunk, router = match_trunk(checkpoint, spec, names), match_router(checkpoint, spec, names)
        layouts = {i: match_experts(checkpoint, spec, names, i) for i in spec.sparse_layers}
        sampling = sampling_defaults(generation)
        model = SourceModel(spec, checkpoint, digest, trunk, router, layouts, sampling=sampling)
        return replace(model, left_out=account_for(checkpoint, model._used(), names.left_out, spec.family))

    def expert_rows(self, layer_idx: int, expert_idx: int, matrix: Matrix) -> RowRange:
        """Where an expert's "gate", "up" [I, D] or "down" [D, I] lies."""
        spec = self.spec
        return self.layouts[layer_idx].rows(layer_idx, expert_idx, matrix, spec.hidden, spec.experts.intermediate)

    def expert_bias(self, layer_idx: int, expert_idx: int, matrix: Matrix) -> NDArray[np.float32]:
        """Read the bias of an expert's matrix: float32 [I], of down [D].

        Raises:
            BundleError: a number is not finite.
        """
        size = self.spec.hidden if matrix == "down" else self.spec.experts.intermediate
        layout = self.layouts[layer_idx]
        row, part = layout.bias_part(expert_idx, matrix, size)
        tensor = layout.tensor(layer_idx, expert_idx, matrix, bias=True)
        return np.ascontiguousarray(finite_rows(self.checkpoint, tensor, row, row + 1)[0, part])

    def read_rows(self, rows: RowRange, first: int, last: int) -> NDArray[Any]:
        """Read rows `first` to `last` (exclusive) of a range in the tensor's own type, contiguous."""
        raw = self.checkpoint.raw_rows(rows.tensor, *rows.part(first, last))
        return raw if rows.stride == 1 else np.ascontiguousarray(raw[:: rows.stride])

    def router_data(self) -> RouterData:
        """Read what routers add to their matrices.

        Raises:
            BundleError: it is nothing a router can use.
        """
        raw = {}
        for name, (kind, (layers, *shape)) in router_arrays(self.spec).items():
            raw[name] = np.zeros((layers, *shape), kind)
            for row, layer_idx in zip(raw[name], self.spec.sparse_layers, strict=False):
                tensor = self.router.get(f"layers.{layer_idx}.router_{name}")
                if tensor is not None:  # else a hashed layer without a bias for a choice it does not make
                    row[...] = self._router_array(tensor, kind).reshape(shape)
        try:
            return router_data_of(self.spec, {name: array.tobytes() for name, array in raw.items()})
        except ValueError as err:
            raise BundleError(f"{self.checkpoint.path.name}: router: {err}. Export a sound checkpoint.") from err

    def _router_array(self, tensor: str, kind: str) -> NDArray[Any]:
        info = self.checkpoint.tensors[tensor]
        if kind == "<f4":
            return self.checkpoint.tensor_f32(tensor).astype(kind)
        values = np.frombuffer(self.checkpoint.raw_bytes(tensor, 0, info.num_bytes), INTEGERS[info.dtype])
        return np.asarray(np.clip(values, -1, _MOST_EXPERTS), kind)  # an id out of range stays one

    @property
    def expert_source_bytes(self) -> int:
        """Bytes of one expert in the checkpoint."""
        first = self.spec.sparse_layers[0]
        ranges = [self.expert_rows(first, 0, m) for m in self.spec.experts.matrices]
        tensors = self.checkpoint.tensors
        sizes = (RAW_DTYPES[tensors[r.tensor].dtype][1]().itemsize * tensors[r.tensor].cols for r in ranges)
        return sum(size * r.rows for size, r in zip(sizes, ranges, strict=True))

    @property
    def embedding_dtype(self) -> EmbeddingDtype:
        """Number type the embedding is stored in: the checkpoint's own, so that nothing is rounded."""
        stored: dict[str, EmbeddingDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
        return stored[self.checkpoint.tensors[self.trunk["embed"]].dtype]

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embedding table."""
        return self.checkpoint.tensors[self.trunk["embed"]].num_bytes

    def _used(self) -> set[str]:
        """Names of the tensors that something reads."""
        used = {*self.trunk.values(), *self.router.values()}
        experts = self.spec.experts
        for layer_idx, layout in self.layouts.items():
            count = 1 if layout.fused else self.spec.num_experts
            for m in experts.matrices:
                used.update(layout.tensor(layer_idx, e, m) for e in range(count))
                used.update(layout.tensor(layer_idx, e, m, bias=True) for e in range(count * experts.bias))
        return used


class CheckpointWeights:
    """Dense weights by canonical name: the exporter's `edge_runtime.backends.cpu.trunk.weights.TrunkWeights`."""

    def __init__(self, source: SourceModel) -> None:
        self._source = source

    def get(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor as float32."""
        info = self._source.checkpoint.tensors[self._source.trunk[name]]
        return self.rows(name, 0, info.rows).reshape(info.shape)

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start to stop of a matrix as float32.

        Raises:
            BundleError: a weight is not finite.
        """
        checkpoint, tensor = self._source.checkpoint, self._source.trunk[name]
        out = np.empty((stop - start, checkpoint.tensors[tensor].cols), np.float32)
        step = max(1, _CONVERT_BYTES // (out.itemsize * max(1, out.shape[1])))
        for at in range(start, stop, step):
            until = min(at + step, stop)
            out[at - start : until - start] = finite_rows(checkpoint, tensor, at, until)
        return out


def finite_rows(checkpoint: Checkpoint, tensor: str, start: int, stop: int) -> NDArray[np.float32]:
    """Read rows of a tensor as float32.

    Raises:
        BundleError: a weight is not finite.
    """
    return finite(checkpoint.raw_rows(tensor, start, stop), tensor, start, stop)


def finite(raw: NDArray[Any], tensor: str, start: int, stop: int) -> NDArray[np.float32]:
    """Widen raw rows `start` to `stop` of a tensor to float32.

    Raises:
        BundleError: a weight is not finite.
    """
    if not is_finite(raw):
        raise BundleError(
            f"tensor {tensor!r}: rows {start} to {stop}: expected finite weights, got infinity or NaN. "
            "Export a sound checkpoint."
        )
    return to_f32(raw)


def file_sha256(path: Path) -> str:
    """SHA-256 of a small file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample_sha256(checkpoint: Checkpoint) -> str:
    """Tell checkpoints of one shape apart: a digest of every tensor's name, type, shape and samples of its bytes.

    Of each tensor the first 4 KiB of every 4 MiB count, so that about a thousandth of a large checkpoint is read; other
    training changes nearly every weight. How tensors are spread over files does not matter.
    """
    hasher = hashlib.sha256()
    for name, info in sorted(checkpoint.tensors.items()):
        hasher.update(json.dumps([name, info.dtype, info.shape]).encode())
        for start in range(0, info.num_bytes, _SAMPLE_EVERY_BYTES):
            hasher.update(checkpoint.raw_bytes(name, start, min(_SAMPLE_BYTES, info.num_bytes - start)))
    return hasher.hexdigest()
