"""Runs a text through the source model, one layer a step: what each layer gets is kept for whoever chooses its codes.

Between steps the residual stream lies in a file of its own, so that an export that was interrupted goes on behind the
last layer that is done. The files of the last three layers are kept: a step may be recorded after the next has begun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.backends.chunks import TrunkChunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.errors import BundleError
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.routing import router_of
from hobbit_export.parts import sync_folder
from hobbit_export.reference import expert_output
from hobbit_export.source import CheckpointWeights, SourceModel
from hobbit_export.statistics.inputs import FOLDER, ROUTED, chosen_rows, input_files
from hobbit_export.statistics.moments import MomentSums, moment_bytes, moment_file
from hobbit_export.statistics.text import most_tokens, window_of

_KEPT_STREAMS = 3
_HIDDEN_NUMBERS = 1 << 23
"""Of an expert's hidden values at a time."""
_ROWS_BYTES = 16 << 20
_ARRAYS = 7
"""Of a stream's size that exist at once: the stream, what joins it, their successors, inputs, and copies of rows."""


class Stream(NamedTuple):
    """What goes from layer to layer, float32 [T, D] each: residual stream, what experts and a network beside gave."""

    resid: F32
    experts: F32
    parallel: F32


def pass_bytes(spec: ModelSpec, largest_matrix: int) -> int:
    """Memory the pass takes at most; `largest_matrix` is the number of weights of the trunk's largest but the head."""
    tokens, window = most_tokens(spec), window_of(spec)
    hidden = 4 * 4 * min(_HIDDEN_NUMBERS, tokens * spec.experts.intermediate)
    heads = max(1, *(getattr(layer.attention, "num_heads", 1) for layer in spec.layers if layer.attention))
    return 4 * (_ARRAYS * tokens * spec.hidden + largest_matrix + 4 * heads * window**2) + hidden + 2 * _ROWS_BYTES


def drive_bytes(spec: ModelSpec, tokens: int, *, fitted_trunk: bool) -> int:
    """Bytes the pass takes on the drive at most: streams of some layers, one on its way, and what two layers got."""
    stream = 4 * tokens * spec.hidden
    inputs = stream + 4 * ROUTED * spec.num_experts
    return 3 * (_KEPT_STREAMS + 1) * stream + 2 * (inputs + fitted_trunk * moment_bytes(spec))


def forget_streams(bundle: Path) -> None:
    """Delete what goes from layer to layer, once all have run."""
    for path in (bundle / FOLDER).glob("stream_*"):
        path.unlink()


def run_layer(
    source: SourceModel, ids: I32, layer_idx: int, bundle: Path, out: Path,
    progress: Callable[[int], None] = lambda count: None, *, moments: int = 0,
) -> list[str]:  # fmt: skip
    """Run one layer over the whole text.

    Args:
        source: the checkpoint.
        ids: int32 [T].
        layer_idx: the layer; the ones before it have run.
        bundle: the folder where streams are kept.
        out: where the layer's own files are written.
        progress: told the bytes of experts as they are read.
        moments: tokens, the first, of which those of the trunk's matrices are kept, too.

    Returns:
        Names of the files, in the bundle and below `out`.
    """
    spec = source.spec
    before = _load(bundle, layer_idx - 1) if layer_idx else None
    sums = MomentSums(len(np.unique(ids[:moments])))
    trunk = ReferenceTrunk(spec, CheckpointWeights(source), watch=sums.add if moments else None)
    stream = Stream(*(np.zeros((len(ids), spec.hidden), np.float32) for _ in range(3)))
    inputs, logits = np.zeros_like(stream.resid), np.zeros((len(ids), spec.num_experts), np.float32)
    for part in _windows(spec, len(ids)):
        sums.counts = part.stop <= moments
        chunk, joins = _chunk(trunk, spec, before, layer_idx, ids, part)
        found = trunk.run_layer(chunk, layer_idx, joins)
        if found is not None:
            inputs[part], logits[part] = found.x, found.router_logits
            if spec.layers[layer_idx].shared is not None:
                beside = trunk.run_shared(chunk, layer_idx)
                stream.experts[part] = 0.0 if beside is None else beside
        stream.resid[part], stream.parallel[part] = trunk.carried(chunk)
    names: list[str] = []
    if spec.layers[layer_idx].sparse:
        routing = router_of(spec, source.router_data()).route(layer_idx, logits, ids)
        _experts(source, layer_idx, inputs, routing.topk_ids, routing.topk_weights, stream.experts, progress)
        names = _keep_inputs(out, layer_idx, inputs, chosen_rows(routing.topk_ids, spec.num_experts))
    _store(bundle, layer_idx, stream)
    return names + ([_keep_moments(out, layer_idx, sums)] if moments else [])


def run_head(source: SourceModel, ids: I32, bundle: Path, out: Path, moments: int) -> list[str]:
    """Keep the moments of what the output head gets, behind the last layer. Arguments as for `run_layer`."""
    spec, sums = source.spec, MomentSums(len(np.unique(ids[:moments])))
    trunk = ReferenceTrunk(spec, CheckpointWeights(source))
    before = _load(bundle, spec.num_layers - 1)
    for part in _windows(spec, moments):
        chunk, joins = _chunk(trunk, spec, before, spec.num_layers, ids, part)
        sums.add("head", trunk.last(chunk, joins, slice(0, part.stop - part.start)))
    return [_keep_moments(out, spec.num_layers, sums)]


def _windows(spec: ModelSpec, tokens: int) -> Iterator[slice]:
    """Cut a text into parts that see nothing of each other."""
    window = window_of(spec)
    return (slice(start, min(start + window, tokens)) for start in range(0, tokens, window))


def _chunk(
    trunk: ReferenceTrunk, spec: ModelSpec, before: Stream | None, layer_idx: int, ids: I32, part: slice
) -> tuple[TrunkChunk, F32 | None]:
    """Return a window that comes to a layer, and what the experts of the one before it gave."""
    kv = trunk.new_kv_cache(window_of(spec))
    if before is None:
        return trunk.begin(ids[part], kv), None
    chunk = trunk.resume(before.resid[part], before.parallel[part], layer_idx, kv)
    return chunk, before.experts[part] if spec.layers[layer_idx - 1].sparse else None


def _experts(
    source: SourceModel, layer_idx: int, x: F32, ids: I32, weights: F32, out: F32, progress: Callable[[int], None]
) -> None:
    """Add the weighted outputs of the experts each token is routed to."""
    most = max(16, _HIDDEN_NUMBERS // source.spec.experts.intermediate)
    for expert_idx in range(source.spec.num_experts):
        tokens, slots = np.nonzero(ids == expert_idx)
        for start in range(0, len(tokens), most):
            some, at = tokens[start : start + most], slots[start : start + most]
            y = expert_output(source, layer_idx, expert_idx, x[some], _ROWS_BYTES)
            out[some] += weights[some, at, None] * y
            progress(0 if start else source.expert_source_bytes)


def _keep_inputs(out: Path, layer_idx: int, inputs: F32, rows: I32) -> list[str]:
    """Write a layer's files below `out` and return their names."""
    names = list(input_files(layer_idx))
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (inputs, rows), strict=True):
        np.save(out / name, array, allow_pickle=False)
    return names


def _keep_moments(out: Path, layer_idx: int, sums: MomentSums) -> str:
    name = moment_file(layer_idx)
    sums.save(out / name)
    return name


def _path(bundle: Path, layer_idx: int) -> Path:
    return bundle / FOLDER / f"stream_{layer_idx:03d}.npy"


def _store(bundle: Path, layer_idx: int, stream: Stream) -> None:
    """Put a stream on the drive, and forget an old one."""
    path = _path(bundle, layer_idx)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.save(file, np.stack(stream), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _path(bundle, layer_idx - _KEPT_STREAMS).unlink(missing_ok=True)
    sync_folder(path.parent)


def _load(bundle: Path, layer_idx: int) -> Stream:
    """Map the stream behind a layer.

    Raises:
        BundleError: it is not there.
    """
    path = _path(bundle, layer_idx)
    try:
        return Stream(*np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as err:
        raise BundleError(
            f"{path}: expected what the layers before gave, got {type(err).__name__}. Start over with --no-resume."
        ) from err
