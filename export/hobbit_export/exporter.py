"""One export from start to end: check, plan, run the steps that are not done, write the manifest."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import ExpertsInfo, Manifest, Part, SourceInfo, TrunkInfo
from edge_runtime.bundle.trunk_choice import TrunkLoss
from hobbit_export import __version__, choosing, trunk_choice, workplace
from hobbit_export.byte_files import ByteFiles, LocalFiles
from hobbit_export.calibration import EXPERTS, check_text, experts_json, read_beginning
from hobbit_export.ceiling import ceiling, resident_bytes
from hobbit_export.expected_parts import expected_parts, totals
from hobbit_export.fingerprint import check_unchanged, fingerprint
from hobbit_export.journal import Journal
from hobbit_export.memory import limit_heap, share_memory
from hobbit_export.opening import open_source
from hobbit_export.options import AUTO_TRUNK, ExportOptions, check_shared
from hobbit_export.progress import Progress
from hobbit_export.quality import measure_quality
from hobbit_export.runner import Runner
from hobbit_export.source import SourceModel, sample_sha256
from hobbit_export.statistics.inputs import FOLDER as STATISTICS
from hobbit_export.statistics.source_pass import forget_streams
from hobbit_export.steps import STATISTICS_STEP, ExportStep, Job, Written, all_steps, expert_step

_WEIGHT_ERRORS, _MEASURED, _SOURCE = "weight errors", "calibration", "digest of "


@dataclass(frozen=True)
class ExportReport:
    """What an export did; `left_out` is as `Omitted.to_json` says, `formats` as `SourceModel.formats`.

    `trunk` is what was `asked` for, the `precision` written, and of "auto" `why`, and what was `measured`, if it was.
    """

    bundle: str
    bundle_id: str
    bytes: int
    num_parts: int
    steps_run: int
    steps_resumed: int
    bytes_read: int
    seconds: float
    peak_rss_bytes: int
    left_out: list[dict[str, Any]]
    formats: dict[str, int]
    ignored_keys: list[str]
    source: str
    source_files_verified: int
    trunk: dict[str, Any]


def export(options: ExportOptions, *, quiet: bool = False) -> ExportReport:
    """Write a bundle, resuming an unfinished one.

    Raises:
        ConfigError: a flag or model option is wrong, or the folder is not ours to write.
        BundleError: the checkpoint lies.
        BudgetError: memory or disk do not suffice.
    """
    with ceiling(options.memory_bytes):
        return _export(options, quiet=quiet)


def _export(options: ExportOptions, *, quiet: bool) -> ExportReport:
    started = time.monotonic()
    check_shared(options)
    limit_heap()
    if options.calibrate:
        check_text(options.calibrate)
    source = open_source(options)
    with source.checkpoint:
        workplace.check_contents(options.out)
        resolved = trunk_choice.resolve(source, options)
        options = resolved.options
        memory = share_memory(source, options, resident_bytes())
        beside = trunk_choice.beside_bytes(source, options, resolved.text)
        expected_bytes = totals(expected_parts(source, options))["total"] + beside
        files = options.files or LocalFiles(options.checkpoint)
        with workplace.locked(options.out), workplace.disk_full_explained(options.out, expected_bytes):
            journal = _open_journal(source, options)
            steps = all_steps(Job(source, options, memory, lambda count: None))
            steps_total = len(list(steps)) + 1 + bool(options.calibrate) + choosing.num_steps(source, options)
            steps_total += len(files.provable()) if options.check_source else 0
            files.recall(journal.received)
            layer_bytes = source.expert_source_bytes * source.spec.num_experts
            with (
                Progress(
                    layer_bytes * len(source.spec.sparse_layers) * (1 + options.has_statistics),
                    steps_total,
                    quiet=quiet,
                ) as progress,
                closing(Runner(options, journal, progress, layer_bytes, files)) as runner,
                files.kept_in(options.out, beside),
            ):
                workplace.check_space(options.out, expected_bytes - runner.finished_bytes + files.kept_bytes(beside))
                job = Job(source, options, memory, runner.count, resolved.text)
                _run_steps(job, journal, runner)
                chosen = _finish(job, journal, runner, files)
    manifest = manifest_file.read(options.out)
    return ExportReport(
        bundle=str(options.out),
        bundle_id=manifest.bundle_id,
        bytes=sum(p.bytes for p in manifest.parts),
        num_parts=len(manifest.parts),
        steps_run=runner.num_run,
        steps_resumed=runner.num_resumed,
        bytes_read=runner.bytes_read,
        seconds=round(time.monotonic() - started, 3),
        peak_rss_bytes=resident_bytes("VmHWM"),
        left_out=[omitted.to_json() for omitted in source.left_out],
        formats=source.formats,
        ignored_keys=list(options.ignore_keys),
        source=options.source_name or str(options.checkpoint),
        source_files_verified=len(files.provable()) if options.check_source else 0,
        trunk=trunk_choice.report(resolved.asked, manifest.trunk.precision, chosen, resolved.why),
    )


def _open_journal(source: SourceModel, options: ExportOptions) -> Journal:
    """Open the journal of this export; another export in the folder is removed only with --no-resume."""
    out = options.out
    if workplace.is_complete(out):
        if options.resume:
            raise ConfigError(
                f"--out {out}: already holds a complete bundle. Check it with --verify, replace it with --no-resume."
            )
        workplace.check_ours(out)
    if not options.resume:
        workplace.clear(out)
    journal = Journal(out, fingerprint(source, options))
    workplace.remove_manifest(out)
    return journal


def _run_steps(job: Job, journal: Journal, runner: Runner) -> None:
    """Run what is not done, where the options say; statistics always here, and before what is made of them."""
    if job.options.engine == "ray":
        from hobbit_export.cluster import driver
        from hobbit_export.cluster.ray_cluster import RayCluster

        options = job.options
        for step in all_steps(job):
            if step.name.startswith(STATISTICS_STEP):
                runner.run(step)
        runner.complete()
        cluster = RayCluster(options.ray_address, options.task_jobs, options.memory_bytes)
        order = driver.order_of(replace(options, jobs=cluster.jobs), journal.fingerprint, job.source.spec)
        steps = (step for step in all_steps(job) if not step.name.startswith(STATISTICS_STEP))
        driver.run_steps(steps, order, cluster, runner)
    else:
        for step in all_steps(job):
            runner.run(step)
    runner.complete()
    forget_streams(job.options.out)


def _finish(job: Job, journal: Journal, runner: Runner, files: ByteFiles) -> TrunkLoss | None:
    """Write calibration/experts.json and the manifest; with a text, once more with what was measured on it."""
    source, options, spec = job.source, job.options, job.source.spec
    errors = {i: journal.steps[expert_step(i)].data["errors"] for i in spec.sparse_layers}

    def experts(measured: dict[str, Any] | None) -> ExportStep:
        def write(out: Path) -> Written:
            (out / EXPERTS).parent.mkdir(parents=True)
            (out / EXPERTS).write_bytes(experts_json(spec, errors, measured))
            return Written([(EXPERTS, "calibration")], {})

        return ExportStep(_MEASURED if measured else _WEIGHT_ERRORS, write)

    runner.run(experts(None))
    runner.complete()
    check_unchanged(source, options, journal)
    sample = sample_sha256(source.checkpoint)

    def manifest(precision: str) -> Manifest:
        return _manifest(source, options, journal, sample, precision)

    chosen = choosing.choose(job, journal, runner, manifest) if options.trunk == AUTO_TRUNK else None
    precision = chosen.trunk if chosen else options.trunk
    if options.calibrate and not runner.is_done(_MEASURED):
        text = read_beginning(options.calibrate)
        with (
            manifest_file.draft(options.out, manifest(precision)),
            runner.progress.share(_MEASURED) as share,
        ):
            measured = measure_quality(options.out, text, errors, options.memory_bytes, share)
        runner.run(experts(measured))
        runner.complete()
    if options.check_source:
        _check_source(files, runner)
    manifest_file.write(options.out, manifest(precision))
    Bundle.open(options.out)
    shutil.rmtree(options.out / STATISTICS, ignore_errors=True)
    journal.remove()
    return chosen


def _check_source(files: ByteFiles, runner: Runner) -> None:
    """Compare whole files with the digests their store states; what an earlier run has compared is not read again."""

    def check(name: str) -> ExportStep:
        def compare(out: Path) -> Written:
            with runner.progress.share(name) as share:
                files.check_whole(name, share)
            return Written([], {})

        return ExportStep(f"{_SOURCE}{name}", compare)

    for name in files.provable():
        runner.run(check(name))
    runner.complete()


def _manifest(source: SourceModel, options: ExportOptions, journal: Journal, sample: str, trunk: str) -> Manifest:
    from hobbit_export.trunk.graph import OPSET
    from hobbit_export.trunk.quantize import BLOCK_SIZE

    parts: dict[str, Part] = {p.name: p for step in journal.steps.values() for p in step.parts}
    parts = {name: part for name, part in parts.items() if not name.startswith(f"{STATISTICS}/")}
    precision: Any = trunk
    checkpoint = options.source_name or options.checkpoint.resolve().name
    ignored = sorted(options.ignore_keys)
    return Manifest(
        model=source.spec,
        experts=ExpertsInfo(options.num_segments, list(options.tiers)),
        trunk=TrunkInfo(precision, 0 if precision == "fp32" else BLOCK_SIZE, OPSET, source.embedding_dtype),
        source=SourceInfo(checkpoint, source.config_sha256, source.checkpoint.weight_bytes, sample, ignored),
        parts=[parts[name] for name in sorted(parts)],
        created_by=f"hobbit-export {__version__}",
        sampling=source.sampling,
    )
