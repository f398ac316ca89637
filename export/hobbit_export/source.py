"""A checkpoint matched with its family: every canonical weight and expert matrix found, every tensor accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import Codes, Matrix, ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from edge_runtime.bundle.router_data import RouterData, router_arrays, router_data_of
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from hobbit_export.arch import read_model
from hobbit_export.arch.names import ExpertLayout, RowRange, block_in
from hobbit_export.byte_files import ByteFiles
from hobbit_export.checkpoint import to_f32
from hobbit_export.generation import sampling_defaults
from hobbit_export.matching import INTEGERS, Matcher, Omitted, account_for
from hobbit_export.origin import Origin
from hobbit_export.origins import open_origin
from hobbit_export.tokenizer_files import TokenizerFile
from hobbit_export.weights import Storage, Weight, finite_rows, formats_of

_CONVERT_BYTES = 4 << 20
"""Widened at a time, so that a large matrix exists once, not in every step of its conversion."""
_MOST_EXPERTS = 1 << 14


@dataclass(frozen=True)
class SourceModel:
    """The source of an export.

    Attributes:
        weights: everything the files hold, by the names adapters know.
        checkpoint: the open files.
        trunk: canonical name -> name of its weight.
        router: the same of what a router adds to its matrix.
        layouts: sparse layer -> how its experts are stored.
        tokenizer: returns the files of the tokenizer, or says how to get them.
        left_out: what of the checkpoint is not exported, and why.
        sampling: how the model wants to be sampled.
    """

    spec: ModelSpec
    weights: dict[str, Weight]
    checkpoint: Storage
    config_sha256: str
    trunk: dict[str, str]
    router: dict[str, str]
    layouts: dict[int, ExpertLayout]
    tokenizer: Callable[[], list[TokenizerFile]]
    left_out: tuple[Omitted, ...] = ()
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    @staticmethod
    def open(
        path: Path, ignore_keys: Sequence[str] = (), tokenizer: Path | None = None, files: ByteFiles | None = None
    ) -> SourceModel:
        """Read config and headers of a checkpoint and match them, before any weight is read.

        Args:
            path: its folder, or the first of its GGUF files.
            ignore_keys: keys of its configuration to read as if they were not there.
            tokenizer: a folder whose tokenizer is taken in place of the model's own.
            files: where the weight files are, if not there.

        Raises:
            ConfigError: not a checkpoint, or an option or family that is not supported.
            BundleError: a tensor is missing, unexpected, misshapen or of a type that cannot be exported.
        """
        origin = open_origin(path, ignore_keys, tokenizer, files)
        try:
            return SourceModel.of(origin, path.name)
        except BaseException:
            origin.storage.close()
            raise

    @staticmethod
    def of(origin: Origin, name: str) -> SourceModel:
        """Match what a checkpoint of this name holds with what its configuration asks for.

        Raises:
            ConfigError: an option or family that is not supported.
            BundleError: a tensor is missing, unexpected, misshapen or of a type that cannot be exported.
        """
        weights, generation = origin.weights, origin.generation
        spec, names = read_model(origin.config, generation, where=origin.where)
        names = names if origin.names is None else origin.names
        own = origin.eos_token_id
        if own is not None and own < spec.vocab_size and own not in spec.eos_token_ids:
            spec = replace(spec, eos_token_ids=[*spec.eos_token_ids, own])
        if spec.tied_embeddings and names.candidates("head")[0] in weights:
            # transformers ties only what is missing or equal: a head that is there is used unchanged
            spec = replace(spec, tied_embeddings=False)
        matcher = Matcher(weights, spec, names, name)
        trunk, router = matcher.trunk(), matcher.router()
        layouts = {i: matcher.experts(i) for i in spec.sparse_layers}
        model = SourceModel(
            spec, weights, origin.storage, origin.config_sha256, trunk, router, layouts, origin.tokenizer,
            sampling=sampling_defaults(generation),
        )  # fmt: skip
        unneeded = (*names.left_out_of(spec.num_layers), *origin.unneeded)
        return replace(model, left_out=account_for(weights, model._used(), unneeded, spec.family))

    def coded(self, codes: Codes) -> SourceModel:
        """Return the same model with codes of its records that stand for something else."""
        return replace(self, spec=replace(self.spec, experts=replace(self.spec.experts, codes=codes)))

    def expert_rows(self, layer_idx: int, expert_idx: int, matrix: Matrix) -> RowRange:
        """Where an expert's "gate", "up" [I, D] or "down" [D, I] lies."""
        spec = self.spec
        return self.layouts[layer_idx].rows(layer_idx, expert_idx, matrix, spec.hidden, spec.experts.intermediate)

    def expert_bias(self, layer_idx: int, expert_idx: int, matrix: Matrix) -> F32:
        """Read the bias of an expert's matrix: float32 [I], of down [D].

        Raises:
            BundleError: a number is not finite.
        """
        size = self.spec.hidden if matrix == "down" else self.spec.experts.intermediate
        layout = self.layouts[layer_idx]
        row, part = layout.bias_part(expert_idx, matrix, size)
        tensor = layout.tensor(layer_idx, expert_idx, matrix, bias=True)
        return np.ascontiguousarray(finite_rows(self.weights[tensor], row, row + 1)[0, part])

    def read_rows(self, rows: RowRange, first: int, last: int) -> NDArray[Any]:
        """Read rows `first` to `last` (exclusive) of a range in the weight's `dtype`, contiguous."""
        raw = self.weights[rows.tensor].read(*rows.part(first, last))
        return raw if rows.stride == 1 else np.ascontiguousarray(raw[:: rows.stride])

    def read_bytes(self, rows: RowRange) -> int:
        """Memory that `read_rows` takes at most for each row."""
        row_bytes = self.weights[rows.tensor].row_bytes
        # of interleaved rows twice as many are read, and those that are wanted are copied
        return row_bytes * (1 if rows.stride == 1 else rows.stride + 1)

    @property
    def expert_row_bytes(self) -> int:
        """Memory that reading takes at most for each row of any expert."""
        matrices = self.spec.experts.matrices
        return max(self.read_bytes(self.expert_rows(i, 0, m)) for i in self.spec.sparse_layers for m in matrices)

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
        weight = self.weights[tensor]
        if kind == "<f4":
            return to_f32(weight.read(0, weight.rows)).astype(kind)
        values = weight.read(0, weight.rows).astype(INTEGERS[weight.dtype], copy=False)
        return np.asarray(np.clip(values, -1, _MOST_EXPERTS), kind)  # an id out of range stays one

    @property
    def expert_source_bytes(self) -> int:
        """Bytes of one expert in the checkpoint, as it is stored."""
        first = self.spec.sparse_layers[0]
        ranges = [self.expert_rows(first, 0, m) for m in self.spec.experts.matrices]
        return sum(self.weights[r.tensor].stored_bytes(0, r.rows) for r in ranges)

    @property
    def embedding_dtype(self) -> EmbeddingDtype:
        """Number type the embedding is stored in: its weight's own, so that nothing is rounded."""
        stored: dict[str, EmbeddingDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
        return stored[self.weights[self.trunk["embed"]].dtype]

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embedding table."""
        return self.weights[self.trunk["embed"]].plain_bytes

    @property
    def formats(self) -> dict[str, int]:
        """How many weights are stored in each format that is not plain."""
        return formats_of(self.weights)

    def _used(self) -> set[str]:
        """Names of the weights that something reads."""
        used = {*self.trunk.values(), *self.router.values()}
        used.update(block[0] for name in tuple(used) if (block := block_in(name)) is not None)
        used |= {self.weights[name].name for name in used}  # what parts are part of
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

    def get(self, name: str) -> F32:
        """Return a whole tensor as float32."""
        weight = self._source.weights[self._source.trunk[name]]
        return self.rows(name, 0, weight.rows).reshape(weight.shape)

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Return rows start to stop of a matrix as float32.

        Raises:
            BundleError: a weight is not finite.
        """
        weight = self._source.weights[self._source.trunk[name]]
        out = np.empty((stop - start, weight.cols), np.float32)
        step = max(1, _CONVERT_BYTES // max(1, weight.row_bytes, out.itemsize * out.shape[1]))
        for at in range(start, stop, step):
            until = min(at + step, stop)
            out[at - start : until - start] = finite_rows(weight, at, until)
        return out


def sample_sha256(storage: Storage) -> str:
    """Tell sources of one shape apart: SHA-256, in hex, of `Storage.samples`."""
    hasher = hashlib.sha256()
    for sample in storage.samples():
        hasher.update(sample)
    return hasher.hexdigest()
