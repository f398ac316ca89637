"""The steps that choose a trunk: int4 is fitted to one part of a text and judged on another, against int8.

Both trunks have been written, int8 in its place, as by default, and int4 beside it. The engine runs the held-out tokens
with int8, then with int4 in its place, and the int8 files lie aside until it is known which is kept. Every step is one
of the journal's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.record import BF16
from edge_runtime.bundle.trunk_choice import NAME, VERSION, TrunkLoss
from edge_runtime.lab.evaluation import QualityMeter
from hobbit_export.journal import Journal
from hobbit_export.options import AUTO_TRUNK, ExportOptions
from hobbit_export.parts import is_intact
from hobbit_export.runner import Runner
from hobbit_export.source import SourceModel
from hobbit_export.statistics.inputs import FOLDER as STATISTICS
from hobbit_export.steps import INT4, ExportStep, Job, Written, trunk_steps
from hobbit_export.trunk_choice import KLD_BOUND, describe
from hobbit_export.verify import open_engine

if TYPE_CHECKING:
    from edge_runtime.engine.api import Engine

_LOGITS, _CHOICE = "int8 trunk's logits", "choice of the trunk"
_LOGITS_FILE, _ASIDE = f"{STATISTICS}/int8.logits", f"{STATISTICS}/int8"
Precision = Literal["int8", "int4"]


def num_steps(source: SourceModel, options: ExportOptions) -> int:
    """Steps that choosing takes at least."""
    return source.spec.num_layers + 3 if options.trunk == AUTO_TRUNK else 0


def choose(
    job: Job, journal: Journal, runner: Runner, manifest: Callable[[Precision], Manifest]
) -> TrunkLoss:  # fmt: skip
    """Do the steps of choosing that are not done; the trunk in the bundle is then the one that is chosen.

    Args:
        job: whose trunk is "auto"; its other steps are done.
        journal: of the export.
        runner: of the export.
        manifest: of the bundle as it is now, with a trunk of that precision.

    Raises:
        BudgetError: the runtime does not fit into --memory.
        BundleError: files of an earlier run are gone.
    """
    choosing = _Choosing(job, journal, runner, manifest)
    decided = runner.is_done(_CHOICE)
    refused = decided and choosing.found().trunk == "int8"
    if decided:
        runner.progress.skip(_LOGITS, 0)
    else:
        runner.run(ExportStep(_LOGITS, choosing.write_logits))
        runner.complete()
    for int8, int4 in zip(trunk_steps(job, "int8"), trunk_steps(job, "int4", INT4), strict=True):
        if refused:
            runner.progress.skip(int4.name, 0)
        else:
            runner.run(choosing.replacing(int8, int4))
    runner.complete()
    runner.run(ExportStep(_CHOICE, choosing.judge))
    runner.complete()
    found = choosing.found()
    runner.progress.note(f"trunk: {found.trunk}: {describe(found)}")
    if found.trunk == "int8":
        runner.progress.expect(job.source.spec.num_layers + 1)
        for step in trunk_steps(job, "int8"):
            runner.run(replace(step, name=f"int8 {step.name}", run=choosing.bringing_back(step)))
        runner.complete()
    return found


class _Choosing:
    """What the steps do."""

    def __init__(
        self, job: Job, journal: Journal, runner: Runner, manifest: Callable[[Precision], Manifest]
    ) -> None:  # fmt: skip
        self._job, self._journal, self._runner, self._manifest = job, journal, runner, manifest
        held = job.text.held_out if job.text else None
        assert held is not None, "resolved: there is a text, and it is long enough"
        self._out, self._held = job.options.out, held
        self._tier = max(tier for tier in job.options.tiers if tier != BF16)

    def found(self) -> TrunkLoss:
        """What `judge` found, now or in an earlier run."""
        return TrunkLoss(**self._journal.steps[_CHOICE].data)

    def write_logits(self, out: Path) -> Written:
        """Keep what the int8 trunk answers to the held-out tokens: float32 [T, V]."""
        if not all(self._lies_in(self._out, step) for step in trunk_steps(self._job, "int8")):
            raise BundleError(f"{_LOGITS_FILE} of an earlier run is gone or damaged. Start over with --no-resume.")
        (out / STATISTICS).mkdir()
        with self._engine("int8") as engine, open(out / _LOGITS_FILE, "wb") as file:
            for _, rows in self._rows(engine, _LOGITS):
                file.write(np.ascontiguousarray(rows, "<f4").data)
        return Written([(_LOGITS_FILE, "calibration")], {})

    def judge(self, out: Path) -> Written:
        """Measure the int4 trunk, which is in its place, against those logits."""
        meter, ids = QualityMeter(), self._held.ids
        row_bytes = 4 * self._job.source.spec.vocab_size
        with self._engine("int4") as engine, open(self._out / _LOGITS_FILE, "rb") as file:
            window = engine.parts.config.context
            for position, rows in self._rows(engine, _CHOICE):
                for at, row in enumerate(rows, position + 1):
                    baseline = np.frombuffer(file.read(row_bytes), "<f4")
                    meter.add(baseline, row, int(ids[at]) if at < len(ids) and at % window else None)
        quality = meter.result()
        if not np.isfinite([quality.kld_mean, quality.ppl, quality.baseline_ppl]).all():
            raise BundleError("the trunk's logits: expected finite numbers, got infinity or NaN. Give --trunk int8.")
        choice = TrunkLoss(
            version=VERSION,
            trunk="int4" if quality.kld_mean <= KLD_BOUND else "int8",
            kld_mean=_short(quality.kld_mean),
            kld_p99=_short(quality.kld_p99),
            kld_bound=KLD_BOUND,
            top1_agreement=_short(quality.top1_agreement),
            ppl=_short(quality.ppl),
            baseline_ppl=_short(quality.baseline_ppl),
            tokens=len(ids),
            fitted_tokens=self._held.fitted,
            held_out=self._held.where,
            tier=self._tier,
        )
        (out / NAME).parent.mkdir()
        (out / NAME).write_text(json.dumps(asdict(choice), indent=1, allow_nan=False) + "\n")
        return Written([(NAME, "calibration")], asdict(choice))

    def _rows(self, engine: Engine, step: str) -> Iterator[tuple[int, F32]]:
        """Run the held-out tokens: yield positions and logits float32 [t, V], and show how far it is."""
        ids = self._held.ids
        with self._runner.progress.share(step) as show:
            for position, rows in engine.logit_windows(ids):
                yield position, rows
                show((position + len(rows)) / len(ids))

    def replacing(self, int8: ExportStep, int4: ExportStep) -> ExportStep:
        """Return the step that puts a part of the int4 trunk in its place, and lays the int8 one aside before."""
        steps = self._journal.steps

        def write(out: Path) -> Written:
            if self._lies_in(self._out, int8):  # not what an earlier run left of int4 there
                for part in steps[int8.name].parts:
                    _link(self._out / part.name, self._out / _ASIDE / part.name)
            found = [(part.name, part.name.removeprefix(f"{INT4}/"), part.role) for part in steps[int4.name].parts]
            for name, place, _ in found:
                _link(self._out / name, out / place)
            return Written([(place, role) for _, place, role in found], {})

        return ExportStep(f"{int4.name} in its place", write, int8.layer)

    def bringing_back(self, int8: ExportStep) -> Callable[[Path], Written]:
        """Return what puts a part of the int8 trunk back, or writes what is gone."""

        def write(out: Path) -> Written:
            found = next((root for root in (self._out / _ASIDE, self._out) if self._lies_in(root, int8)), None)
            if found is None:
                return int8.run(out)
            parts = self._journal.steps[int8.name].parts
            for part in parts:
                _link(found / part.name, out / part.name)
            return Written([(part.name, part.role) for part in parts], {})

        return write

    def _lies_in(self, root: Path, step: ExportStep) -> bool:
        return all(is_intact(root, part) for part in self._journal.steps[step.name].parts)

    @contextmanager
    def _engine(self, precision: Precision) -> Iterator[Engine]:
        """Run what is written so far, within the share of --memory that the closing check takes if that suffices."""
        context = min(len(self._held.ids), self._job.source.spec.max_context)
        with (
            manifest_file.draft(self._out, self._manifest(precision)),
            open_engine(self._job.options, tier=self._tier, context=context) as engine,
        ):
            yield engine


def _link(file: Path, also: Path) -> None:
    """Give a file another name, so that it takes no more of the drive; where there are no such links, a copy.

    Both trunks keep the names they have aside until the export ends, whichever is in its place.
    """
    also.parent.mkdir(parents=True, exist_ok=True)
    also.unlink(missing_ok=True)
    try:
        os.link(file, also)
    except OSError:
        shutil.copyfile(file, also)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
