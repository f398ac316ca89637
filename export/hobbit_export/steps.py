"""The steps of an export, in order. Each writes its parts into a staging folder and depends only on the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.bundle.manifest import Role
from edge_runtime.bundle.router_data import router_arrays
from hobbit_export.calibration import REFERENCE, write_reference
from hobbit_export.experts import LayerJob, write_layer
from hobbit_export.memory import MemoryPlan
from hobbit_export.options import AUTO_TRUNK, ExportOptions
from hobbit_export.router import write_router_data
from hobbit_export.source import CheckpointWeights, SourceModel
from hobbit_export.statistics.inputs import LayerInputs
from hobbit_export.statistics.moments import moment_file, read_moments
from hobbit_export.statistics.source_pass import run_head, run_layer
from hobbit_export.statistics.text import CalibrationText
from hobbit_export.trunk.linear import Moments, Precision
from hobbit_export.trunk.parts import build_head, build_layer, build_routers, build_shared, write_embedding

EXPERT_STEP, STATISTICS_STEP = "experts of layer ", "statistics of layer "


class Written(NamedTuple):
    """What a step left in the staging folder: names with their roles, and data the journal keeps."""

    files: list[tuple[str, Role]]
    data: dict[str, Any]


@dataclass(frozen=True)
class ExportStep:
    """One resumable step.

    Attributes:
        run: writes below the staging folder it is given.
        layer: recorded with every part.
        here: the driver of a cluster does it: last bits of what it computes may differ between processors.
    """

    name: str
    run: Callable[[Path], Written]
    layer: int | None = None
    here: bool = False


@dataclass(frozen=True)
class Job:
    """Everything a step may use; `text` is that of `--calibrate`, where its statistics are still to be taken."""

    source: SourceModel
    options: ExportOptions
    memory: MemoryPlan
    progress: Callable[[int], None]
    text: CalibrationText | None = None


def all_steps(job: Job) -> Iterator[ExportStep]:
    """Yield the steps of an export in the order they run: cheap ones that can fail first."""
    spec = job.source.spec
    yield ExportStep("tokenizer", lambda out: _tokenizer(job, out))
    yield ExportStep("reference", lambda out: _reference(job, out))
    if job.options.has_statistics:
        for i in range(spec.num_layers):
            yield ExportStep(f"{STATISTICS_STEP}{i}", _bind(_statistics, job, i), i)
        if job.options.feeds_back:
            yield ExportStep(f"{STATISTICS_STEP}{spec.num_layers}", _bind(_statistics, job, spec.num_layers))
    yield ExportStep(
        "embedding",
        lambda out: _trunk(
            out, write_embedding(spec, _weights(job), out, _budget(job), job.source.embedding_dtype), "embedding"
        ),
    )
    yield from trunk_steps(job, job.options.first_trunk)
    yield ExportStep("routers", lambda out: _trunk(out, build_routers(spec, _weights(job), out, _budget(job))))
    if router_arrays(spec):
        yield ExportStep("router data", lambda out: _router_data(job, out))
    for i in spec.sparse_layers:
        yield ExportStep(expert_step(i), _bind(_experts, job, i), i)


def trunk_steps(job: Job, precision: str, prefix: str = "") -> Iterator[ExportStep]:
    """Yield the steps that write layers and head of a trunk at a precision; their names begin with the prefix."""
    fitted = job.options.feeds_back and precision == "int4"
    for i in range(job.source.spec.num_layers):
        yield ExportStep(f"{prefix}trunk layer {i}", _bind_trunk(_layer, job, i, precision), i, fitted)
    last = job.source.spec.num_layers
    yield ExportStep(f"{prefix}head", _bind_trunk(_head, job, last, precision), here=fitted)


def expert_step(layer_idx: int) -> str:
    """Name of the step that writes a layer's experts; its data holds their errors."""
    return f"{EXPERT_STEP}{layer_idx}"


def _bind(function: Callable[[Job, int, Path], Written], job: Job, layer_idx: int) -> Callable[[Path], Written]:
    return lambda out: function(job, layer_idx, out)


def _bind_trunk(
    function: Callable[[Job, int, Any, Path], Written], job: Job, layer_idx: int, precision: str
) -> Callable[[Path], Written]:
    return lambda out: function(job, layer_idx, precision, out)


def _tokenizer(job: Job, out: Path) -> Written:
    files = job.source.tokenizer()
    for file in files:
        file.write(out)
    return Written([(file.in_bundle, "tokenizer") for file in files], {})


def _reference(job: Job, out: Path) -> Written:
    write_reference(job.source, out / REFERENCE, job.memory.reference_bytes, job.options.jobs)
    return Written([(REFERENCE, "calibration")], {})


def _statistics(job: Job, layer_idx: int, out: Path) -> Written:
    """Run one layer of the source over the text: only where the text is, which is with the driver."""
    assert job.text is not None
    ids, bundle, moments = job.text.fitted, job.options.out, _counted(job.options, job.text)
    if layer_idx == job.source.spec.num_layers:
        names = run_head(job.source, ids, bundle, out, moments)
    else:
        names = run_layer(job.source, ids, layer_idx, bundle, out, job.progress, moments=moments)
    return Written([(name, "calibration") for name in names], {})


def _counted(options: ExportOptions, text: CalibrationText) -> int:
    """How many tokens, the first, an int4 trunk is fitted to: what it is to be judged on is left out."""
    if not options.feeds_back:
        return 0
    held = text.held_out if options.trunk == AUTO_TRUNK else None
    return held.fitted if held else len(text.fitted)


def _layer(job: Job, layer_idx: int, precision: Precision, out: Path) -> Written:
    spec, weights = job.source.spec, _weights(job)
    moments = _moments(job, layer_idx, precision)
    files = build_layer(spec, layer_idx, weights, out, precision, _budget(job), moments)
    if spec.layers[layer_idx].shared is not None:
        files += build_shared(spec, layer_idx, weights, out, precision, _budget(job), moments)
    return _trunk(out, files)


def _head(job: Job, last: int, precision: Precision, out: Path) -> Written:
    moments = _moments(job, last, precision)
    return _trunk(out, build_head(job.source.spec, _weights(job), out, precision, _budget(job), moments))


def _moments(job: Job, layer_idx: int, precision: Precision) -> Moments | None:
    options, fitted = job.options, job.options.feeds_back and precision == "int4"
    return read_moments(options.out / moment_file(layer_idx)) if fitted else None


def _router_data(job: Job, out: Path) -> Written:
    return Written([(name, "router") for name in write_router_data(job.source, out)], {})


def _trunk(out: Path, files: list[Path], role: Role = "trunk") -> Written:
    return Written([(path.relative_to(out).as_posix(), role) for path in files], {})


def _experts(job: Job, layer_idx: int, out: Path) -> Written:
    from edge_runtime.bundle.part_names import expert_file
    from edge_runtime.bundle.record import BF16

    options = job.options
    inputs = LayerInputs(options.out, layer_idx) if options.has_statistics else None
    layer_job = LayerJob(
        options.num_segments, options.with_bf16, options.jobs, job.memory.block_bytes, job.progress, inputs
    )
    errors = write_layer(job.source, layer_idx, out, layer_job)
    files: list[tuple[str, Role]] = [(expert_file(layer_idx), "experts")]
    if options.with_bf16:
        files.append((expert_file(layer_idx, BF16), "experts_bf16"))
    return Written(files, {"errors": {str(t): row for t, row in errors.items()}})


def _weights(job: Job) -> CheckpointWeights:
    return CheckpointWeights(job.source)


def _budget(job: Job) -> int:
    return job.memory.trunk_bytes
