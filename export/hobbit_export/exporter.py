"""One export from start to end: check, plan, run the steps that are not done, write the manifest."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest import ExpertsInfo, Manifest, Part, SourceInfo, TrunkInfo
from hobbit_export import __version__, workplace
from hobbit_export.byte_files import LocalFiles
from hobbit_export.calibration import EXPERTS, check_text, experts_json
from hobbit_export.fingerprint import check_unchanged, fingerprint
from hobbit_export.journal import Journal, Step
from hobbit_export.memory import limit_heap, plan_memory, resident_bytes
from hobbit_export.options import ExportOptions
from hobbit_export.parts import is_intact, publish, remove_staging, staging
from hobbit_export.plan import plan_parts, totals
from hobbit_export.progress import Progress
from hobbit_export.quality import measure_quality
from hobbit_export.source import SourceModel, sample_sha256
from hobbit_export.steps import EXPERT_STEP, ExportStep, Job, Written, all_steps, expert_step

_WEIGHT_ERRORS, _MEASURED = "weight errors", "calibration"


@dataclass(frozen=True)
class ExportReport:
    """What an export did; `left_out` is as `Omitted.to_json` says, `formats` as `SourceModel.formats`."""

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


def export(options: ExportOptions, *, quiet: bool = False) -> ExportReport:
    """Write a bundle, resuming an unfinished one.

    Raises:
        ConfigError: a flag or model option is wrong, or the folder is not ours to write.
        BundleError: the checkpoint lies.
        BudgetError: memory or disk do not suffice.
    """
    started = time.monotonic()
    limit_heap()
    if options.calibrate:
        check_text(options.calibrate)
    source = SourceModel.open(options.checkpoint, options.ignore_keys, options.tokenizer, options.files)
    with source.checkpoint:
        workplace.check_contents(options.out)
        memory = plan_memory(source, options, resident_bytes())
        planned = totals(plan_parts(source, options))["total"]
        files = options.files or LocalFiles(options.checkpoint)
        with workplace.locked(options.out), workplace.disk_full_explained(options.out, planned):
            journal = _open_journal(source, options)
            steps = all_steps(Job(source, options, memory, lambda count: None))
            steps_total = len(list(steps)) + 1 + bool(options.calibrate)
            layer_bytes = source.expert_source_bytes * source.spec.num_experts
            with (
                Progress(layer_bytes * len(source.spec.sparse_layers), steps_total, quiet=quiet) as progress,
                closing(_Runner(options, journal, progress, layer_bytes)) as runner,
                files.kept_in(options.out),
            ):
                workplace.check_space(options.out, planned - runner.finished_bytes + files.kept_bytes)
                for step in all_steps(Job(source, options, memory, runner.count)):
                    runner.run(step)
                runner.complete()
                _finish(source, options, journal, runner)
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


class _Runner:
    """Runs steps that are not in the journal, or whose parts are gone.

    A step's files are hashed and synced by a thread of their own while the next step runs.
    """

    def __init__(self, options: ExportOptions, journal: Journal, progress: Progress, layer_bytes: int) -> None:
        self._out = options.out
        self._journal = journal
        self.progress = progress
        self._layer_bytes = layer_bytes
        self.num_run = self.num_resumed = self.bytes_read = 0
        self._intact = {s.name for s in journal.steps.values() if self._is_intact(s)}
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="hobbit-export-publisher")
        self._pending: Future[None] | None = None
        remove_staging(self._out)

    @property
    def finished_bytes(self) -> int:
        """Bytes of parts that need not be written again."""
        return sum(p.bytes for name in self._intact for p in self._journal.steps[name].parts)

    def is_done(self, name: str) -> bool:
        """Whether a step was finished by an earlier run."""
        return name in self._intact

    def count(self, num_bytes: int) -> None:
        """Count bytes read from the checkpoint."""
        self.bytes_read += num_bytes
        self.progress.advance(num_bytes)

    def run(self, step: ExportStep) -> None:
        """Run a step if needed. Its files may still be on their way to the drive: see `complete`."""
        if step.name in self._intact:
            self.num_resumed += 1
            self.progress.skip(step.name, self._layer_bytes if step.name.startswith(EXPERT_STEP) else 0)
            return
        self.progress.begin(step.name)
        folder = staging(self._out, str(self.num_run))
        written: Written = step.run(folder)
        self.complete()
        self._pending = self._publisher.submit(self._publish, step, written, folder)
        self.num_run += 1
        self.progress.end(step.name)

    def complete(self) -> None:
        """Wait until every step run so far is on the drive and in the journal; raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Let the thread end."""
        self._publisher.shutdown()
        remove_staging(self._out)

    def _publish(self, step: ExportStep, written: Written, folder: Path) -> None:
        parts = [publish(self._out, folder, name, role, step.layer) for name, role in written.files]
        shutil.rmtree(folder)
        self._journal.add(Step(step.name, parts, written.data))

    def _is_intact(self, step: Step) -> bool:
        later = list(self._journal.steps.values())
        later = later[later.index(step) + 1 :]
        replaced = {p.name for s in later for p in s.parts}
        return all(p.name in replaced or is_intact(self._out, p) for p in step.parts)


def _finish(source: SourceModel, options: ExportOptions, journal: Journal, runner: _Runner) -> None:
    """Write calibration/experts.json and the manifest; with a text, once more with what was measured on it."""
    spec = source.spec
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
    if options.calibrate and not runner.is_done(_MEASURED):
        text = options.calibrate.read_text("utf-8")
        with (
            manifest_file.draft(options.out, _manifest(source, options, journal, sample)),
            runner.progress.share(_MEASURED) as share,
        ):
            measured = measure_quality(options.out, text, errors, options.memory_bytes, share)
        runner.run(experts(measured))
        runner.complete()
    manifest_file.write(options.out, _manifest(source, options, journal, sample))
    Bundle.open(options.out)
    journal.remove()


def _manifest(source: SourceModel, options: ExportOptions, journal: Journal, sample: str) -> Manifest:
    from hobbit_export.trunk.graph import OPSET
    from hobbit_export.trunk.quantize import BLOCK_SIZE

    parts: dict[str, Part] = {p.name: p for step in journal.steps.values() for p in step.parts}
    precision: Any = options.trunk
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
