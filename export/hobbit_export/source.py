"""A checkpoint matched with its family: every canonical weight and expert matrix found, every tensor accounted for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.trunk.weights import layer_weight_shapes, top_weight_shapes
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.manifest import EmbeddingDtype
from hobbit_export.arch import read_model
from hobbit_export.arch.names import IGNORABLE, MATRICES, ExpertLayout, Names, RowRange
from hobbit_export.checkpoint import RAW_DTYPES, Checkpoint, is_finite, read_json, to_f32

_CONVERT_BYTES = 4 << 20
"""Widened at a time, so that a large matrix exists once, not in every step of its conversion."""
_SAMPLE_BYTES, _SAMPLE_EVERY_BYTES = 4 << 10, 4 << 20


@dataclass(frozen=True)
class SourceModel:
    """The source of an export.

    Attributes:
        trunk: canonical name -> tensor name.
        layouts: sparse layer -> how its experts are stored.
    """

    spec: ModelSpec
    checkpoint: Checkpoint
    config_sha256: str
    trunk: dict[str, str]
    layouts: dict[int, ExpertLayout]

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
        generation = path / "generation_config.json"
        spec, names = read_model(config, read_json(generation) if generation.exists() else {})
        if spec.tied_embeddings and names.candidates("head")[0] in checkpoint.tensors:
            # transformers ties only what is missing or equal: a head that is there is used unchanged
            spec = replace(spec, tied_embeddings=False)
        trunk = _match_trunk(checkpoint, spec, names)
        layouts = {i: _match_experts(checkpoint, spec, names, i) for i in spec.sparse_layers}
        model = SourceModel(spec, checkpoint, digest, trunk, layouts)
        model._check_all_used()
        return model

    def expert_rows(self, layer_idx: int, expert_idx: int, matrix: str) -> RowRange:
        """Where an expert's "gate", "up" [I, D] or "down" [D, I] lies."""
        spec = self.spec
        return self.layouts[layer_idx].rows(layer_idx, expert_idx, matrix, spec.hidden, spec.experts.intermediate)

    @property
    def expert_source_bytes(self) -> int:
        """Bytes of one expert in the checkpoint."""
        first = self.spec.sparse_layers[0]
        ranges = [self.expert_rows(first, 0, m) for m in MATRICES]
        tensors = self.checkpoint.tensors
        sizes = (RAW_DTYPES[tensors[r.tensor].dtype][1]().itemsize * tensors[r.tensor].cols for r in ranges)
        return sum(size * (r.stop - r.start) for size, r in zip(sizes, ranges, strict=True))

    @property
    def embedding_dtype(self) -> EmbeddingDtype:
        """Number type the embedding is stored in: the checkpoint's own, so that nothing is rounded."""
        stored: dict[str, EmbeddingDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
        return stored[self.checkpoint.tensors[self.trunk["embed"]].dtype]

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embedding table."""
        return self.checkpoint.tensors[self.trunk["embed"]].num_bytes

    def _check_all_used(self) -> None:
        used = set(self.trunk.values())
        for layer_idx, layout in self.layouts.items():
            count = 1 if layout.fused else self.spec.num_experts
            used.update(layout.tensor(layer_idx, e, m) for e in range(count) for m in MATRICES)
        for name in sorted(set(self.checkpoint.tensors) - used):
            if not IGNORABLE.fullmatch(name):
                file = self.checkpoint.tensors[name].file.name
                raise BundleError(
                    f"{file}: tensor {name!r}: not part of a {self.spec.family} model of this config. "
                    "Leaving it out could change the model's output: check config.json."
                )


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
    raw = checkpoint.raw_rows(tensor, start, stop)
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


def _match_trunk(checkpoint: Checkpoint, spec: ModelSpec, names: Names) -> dict[str, str]:
    shapes = top_weight_shapes(spec)
    for layer_idx in range(spec.num_layers):
        shapes |= layer_weight_shapes(spec, layer_idx)
    found = {}
    for canonical, shape in shapes.items():
        candidates = names.candidates("embed" if canonical == "head" and spec.tied_embeddings else canonical)
        present = [c for c in candidates if c in checkpoint.tensors]
        if not present:
            raise BundleError(
                f"{checkpoint.path.name}: tensor {candidates[0]!r} is missing. Download the checkpoint again."
            )
        _check_tensor(checkpoint, present[0], shape)
        found[canonical] = present[0]
    return found


def _match_experts(checkpoint: Checkpoint, spec: ModelSpec, names: Names, layer_idx: int) -> ExpertLayout:
    layout = next((x for x in names.layouts if x.tensor(layer_idx, 0, "down") in checkpoint.tensors), names.layouts[0])
    for matrix in MATRICES:
        shape = layout.shape(matrix, spec.num_experts, spec.hidden, spec.experts.intermediate)
        for expert_idx in range(1 if layout.fused else spec.num_experts):
            _check_tensor(checkpoint, layout.tensor(layer_idx, expert_idx, matrix), shape)
    return layout


def _check_tensor(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> None:
    info = checkpoint.tensors.get(name)
    if info is None:
        raise BundleError(f"{checkpoint.path.name}: tensor {name!r} is missing. Download the checkpoint again.")
    where = f"{info.file.name}: tensor {name!r}"
    if info.shape != shape:
        raise BundleError(
            f"{where}: expected shape {list(shape)}, got {list(info.shape)}. config.json does not fit it."
        )
    if info.dtype not in RAW_DTYPES:
        raise BundleError(
            f"{where}: expected F32, F16 or BF16 weights, got {info.dtype}. Export from the unquantised checkpoint."
        )
