"""The steps of an export, in order. Each writes its parts into a staging folder and depends only on the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from edge_runtime.bundle.manifest import Role
from edge_runtime.bundle.router_data import router_arrays
from hobbit_export.calibration import REFERENCE, write_reference
from hobbit_export.experts import LayerJob, write_layer
from hobbit_export.memory import ExportMemory
from hobbit_export.options import AUTO_TRUNK, ExportOptions
from hobbit_export.router import write_router_data
from hobbit_export.source import CheckpointWeights, SourceModel
from hobbit_export.statistics.inputs import FOLDER, LayerInputs, input_files
from hobbit_export.statistics.moments import moment_file, read_moments
from hobbit_export.statistics.source_pass import run_head, run_layer
from hobbit_export.statistics.text import CalibrationText
from hobbit_export.trunk.linear import Moments, Precision
from hobbit_export.trunk.parts import build_head, build_layer, build_routers, build_shared, write_embedding

EXPERT_STEP, STATISTICS_STEP = "experts of layer ", "statistics of layer "
INT4 = f"{FOLDER}/int4"
"""Where an int4 trunk waits until it is known whether it is taken."""


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
        spent: files in the bundle's folder that nobody needs once it is done.
    """

    name: str
    run: Callable[[Path], Written]
    layer: int | None = None
    here: bool = False
    spent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Everything a step may use; `text` is that of `--calibrate`, where its statistics are still to be taken."""

    source: SourceModel
    options: ExportOptions
    memory: ExportMemory
    progress: Callable[[int], None]
    text: CalibrationText | None = None


def all_steps(job: Job) -> Iterator[ExportStep]:
    """Yield the steps of an export in the order they run: cheap ones that can fail first, then layer by layer.

    What a text put into a layer is on the drive only until what is fitted to it is written.
    """
    spec = job.source.spec
    yield ExportStep("tokenizer", lambda out: _tokenizer(job, out))
    yield ExportStep("reference", lambda out: _reference(job, out))
    yield ExportStep(
        "embedding",
        lambda out: _trunk(
            out, write_embedding(spec, _weights(job), out, _budget(job), job.source.embedding_dtype), "embedding"
        ),
    )
    yield ExportStep("routers", lambda out: _trunk(out, build_routers(spec, _weights(job), out, _budget(job))))
    if router_arrays(spec):
        yield ExportStep("router data", lambda out: _router_data(job, out))
    for i in range(spec.num_layers):
        yield from _layer_steps(job, i)
    if job.options.feeds_back:
        yield _statistics_step(job, spec.num_layers)
    yield from _trunk_steps(job, spec.num_layers)


def _layer_steps(job: Job, layer_idx: int) -> Iterator[ExportStep]:
    if job.options.has_statistics:
        yield _statistics_step(job, layer_idx)
    yield from _trunk_steps(job, layer_idx)
    if job.source.spec.layers[layer_idx].sparse:
        spent = input_files(layer_idx) if job.options.has_statistics else ()
        yield ExportStep(expert_step(layer_idx), _bind(_experts, job, layer_idx), layer_idx, spent=spent)


def _statistics_step(job: Job, layer_idx: int) -> ExportStep:
    layer = layer_idx if layer_idx < job.source.spec.num_layers else None
    return ExportStep(f"{STATISTICS_STEP}{layer_idx}", _bind(_statistics, job, layer_idx), layer)


def _trunk_steps(job: Job, layer_idx: int) -> Iterator[ExportStep]:
    """Yield the steps of a layer's trunk, or behind the last one of the head; of "auto" in both precisions."""
    yield _trunk_step(job, layer_idx, cast("Precision", job.options.first_trunk))
    if job.options.trunk == AUTO_TRUNK and job.options.has_statistics:
        yield _trunk_step(job, layer_idx, "int4", INT4)


def _trunk_step(job: Job, layer_idx: int, precision: Precision, below: str = "") -> ExportStep:
    """Return the step that writes a layer's trunk, or the head; `below` a folder, where it waits to be chosen."""
    fitted = job.options.feeds_back and precision == "int4"
    spent = (moment_file(layer_idx),) if fitted else ()
    is_head = layer_idx == job.source.spec.num_layers
    write = _head if is_head else _layer

    def run(out: Path) -> Written:
        return _below(out, below, write(job, layer_idx, precision, out))

    name = "head" if is_head else f"trunk layer {layer_idx}"
    layer = None if is_head else layer_idx
    return ExportStep(f"{precision} {name}" if below else name, run, layer, fitted, spent)


def trunk_steps(job: Job, precision: Precision, below: str = "") -> Iterator[ExportStep]:
    """Yield the steps that write layers and head of a trunk at a precision; see `_trunk_step`."""
    return (_trunk_step(job, i, precision, below) for i in range(job.source.spec.num_layers + 1))


def _below(out: Path, folder: str, written: Written) -> Written:
    """Move what was written to a folder of its own; "": leave it."""
    if not folder:
        return written
    files: list[tuple[str, Role]] = [(f"{folder}/{name}", role) for name, role in written.files]
    for (name, _), (there, _) in zip(written.files, files, strict=True):
        (out / there).parent.mkdir(parents=True, exist_ok=True)
        (out / name).rename(out / there)
    return Written(files, written.data)


def expert_step(layer_idx: int) -> str:
    """Name of the step that writes a layer's experts; its data holds their errors."""
    return f"{EXPERT_STEP}{layer_idx}"


def _bind(function: Callable[[Job, int, Path], Written], job: Job, layer_idx: int) -> Callable[[Path], Written]:
    return lambda out: function(job, layer_idx, out)


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


def _head(job: Job, layer_idx: int, precision: Precision, out: Path) -> Written:
    moments = _moments(job, layer_idx, precision)
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
